"""How an outer step is computed: what changes nothing but rounding and time."""
