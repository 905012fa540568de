"""Boots real guests, lets them work, attacks them and measures; never shipped and unknown to the product."""
