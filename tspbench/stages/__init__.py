"""One file per verb, same name as its command."""
