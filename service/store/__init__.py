"""Each SQL statement as a function; one module for each folder of sql/queries/, with the same name."""
