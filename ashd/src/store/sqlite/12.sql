-- Both were written with every status, between whoever asks for it and the disk. What they were for is found by
-- other indexes, and there are as few counts as there were entries of them.
DROP INDEX sessions_unended;
DROP INDEX session_counts_by_status;
