-- The newest event when files of a session were first changed by others than turns, or may have been: until
-- then they came of its agent's folder. Of sessions from before this was recorded it is not known: 0.
ALTER TABLE sessions ADD COLUMN altered INTEGER;
UPDATE sessions SET altered = 0;
