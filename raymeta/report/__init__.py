"""How studies and final runs are shown: tables, pictures, exported configs, the methods' pages."""
