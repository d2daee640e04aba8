"""Files for installing Limen among other people's tools, printed for whoever puts them there."""
