"""The explorer, the checkers of histories, the simulator and the checks of torture."""
