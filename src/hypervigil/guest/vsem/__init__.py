"""VM security monitor: what the guest sends, tries and asks for, against what is usual of it. Pure."""
