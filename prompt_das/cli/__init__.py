"""The commands of `prompt-das`, one module each; their arguments are in the module `prompt_das_cli`."""
