"""What this plugin offers to hub. Imports no framework."""
