-- How many sessions there are of each agent with each status: counting them anew for everybody who asks
-- would take longer the more there are. Kept by the database itself, so that it is right whoever writes.
CREATE TABLE session_counts (
    tenant   TEXT NOT NULL,
    agent    TEXT NOT NULL,
    status   TEXT NOT NULL,
    sessions INTEGER NOT NULL,
    PRIMARY KEY (tenant, agent, status)
) WITHOUT ROWID, STRICT;

-- For all tenants together.
CREATE INDEX session_counts_by_status ON session_counts (status, tenant, agent, sessions);

INSERT INTO session_counts (tenant, agent, status, sessions)
    SELECT tenant, agent, status, count(*) FROM sessions GROUP BY tenant, agent, status;

CREATE TRIGGER session_comes AFTER INSERT ON sessions BEGIN
    INSERT INTO session_counts (tenant, agent, status, sessions)
        VALUES (new.tenant, new.agent, new.status, 1)
        ON CONFLICT DO UPDATE SET sessions = sessions + 1;
END;

CREATE TRIGGER session_changes AFTER UPDATE OF tenant, agent, status ON sessions
WHEN old.tenant <> new.tenant OR old.agent <> new.agent OR old.status <> new.status
BEGIN
    UPDATE session_counts SET sessions = sessions - 1
        WHERE tenant = old.tenant AND agent = old.agent AND status = old.status;
    DELETE FROM session_counts
        WHERE tenant = old.tenant AND agent = old.agent AND status = old.status AND sessions = 0;
    INSERT INTO session_counts (tenant, agent, status, sessions)
        VALUES (new.tenant, new.agent, new.status, 1)
        ON CONFLICT DO UPDATE SET sessions = sessions + 1;
END;

CREATE TRIGGER session_goes AFTER DELETE ON sessions BEGIN
    UPDATE session_counts SET sessions = sessions - 1
        WHERE tenant = old.tenant AND agent = old.agent AND status = old.status;
    DELETE FROM session_counts
        WHERE tenant = old.tenant AND agent = old.agent AND status = old.status AND sessions = 0;
END;

-- An agent's sessions with a status, which may be few among many others of the agent.
CREATE INDEX sessions_by_agent_status ON sessions (tenant, agent, status, created_at);
