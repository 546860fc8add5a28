"""One package for each agent framework; `vectors` keeps an index beside a space."""
