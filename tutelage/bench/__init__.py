"""Speed and memory beside other libraries, in one run on one machine."""
