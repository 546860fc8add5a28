"""What reads the log as it grows: consumer groups, and the coordinator of many contributors."""
