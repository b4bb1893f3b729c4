"""Problems of viewpoints: how a thing is turned, learned for new kinds of things from a few pictures of them."""
