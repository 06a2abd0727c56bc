-- What holds for an agent now, apart from what was deployed: environment and config can be changed
-- without a new version.
ALTER TABLE agents ADD COLUMN env TEXT NOT NULL DEFAULT '{}';
ALTER TABLE agents ADD COLUMN config TEXT NOT NULL DEFAULT '{}';
ALTER TABLE agents ADD COLUMN updated_at INTEGER NOT NULL DEFAULT 0;

UPDATE agents SET (env, updated_at) =
    (SELECT env, deployed_at FROM agent_versions v
     WHERE v.agent = agents.key AND v.version = agents.version);
