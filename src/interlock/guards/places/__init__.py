"""The places that guards know: one file each, with how it loads and how it replaces."""
