"""What the commands of the command line do. Each is imported when it is called for; `langchain_vers.cli` declares them."""
