-- What a key lets its holder do. Until now a key of the default tenant was the operator's.
ALTER TABLE keys ADD COLUMN scope TEXT NOT NULL DEFAULT 'run';

UPDATE keys SET scope = 'manage' WHERE tenant = 'default';

-- Why the newest turn failed, or why the session is in error.
ALTER TABLE sessions ADD COLUMN last_error TEXT;
