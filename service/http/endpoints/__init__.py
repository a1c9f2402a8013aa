"""Lists the endpoints of /admin/, a module for each group: requests, responses, and the function of each."""
