"""HREM's eyes: read counters and statistics, say what was seen. No rights; decides nothing, changes nothing."""
