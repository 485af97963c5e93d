"""The sub-commands of ``sedm``: a module each, which parses its words before it imports what takes seconds."""
