"""Every column of ``trials``, in groups, each column with its type, unit and meaning."""
