"""Shared documents and their files."""
