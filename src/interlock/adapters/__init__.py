"""One file for each agent framework and each store beside Interlock's own."""
