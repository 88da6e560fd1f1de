"""Reading page: a web page and an API to look at findings and judge them."""
