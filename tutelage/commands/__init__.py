"""What each command does: parse, call one function, say what came of it. `tutelage.cli` lists them."""
