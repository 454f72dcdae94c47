"""Folders of photos: what is done and what is missing, engines that share out the work, and the report."""
