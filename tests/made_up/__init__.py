"""Records and files that tests make up."""
