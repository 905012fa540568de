"""The only root process: applies typed steps, reads back, expires, undoes; decides nothing."""
