"""What a private fit refuses, by what is looked at: arguments, trainer, model, loader, ledger."""
