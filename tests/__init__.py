from tests import memory_store as memory_store  # it makes memory:// known
