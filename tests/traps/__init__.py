"""One test per known trap of evaluation code: the naive way goes wrong, this code base does not."""
