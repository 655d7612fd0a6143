"""The life of a plan: rolled out, migrated to, in force, replaced (pure)."""
