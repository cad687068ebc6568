"""From a HoopResource's variables and the Secrets of other tools to a connection, and back into Secrets.

Pure functions: whoever calls them has read the Secrets and writes the results. No message quotes a value.
"""
