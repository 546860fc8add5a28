"""What reads the log as it grows.

`group`: consumers that share it; `coordinator`: contributions of many merged into one value;
`projection`: entries folded into a value in memory.
"""
