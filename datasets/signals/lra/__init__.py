"""The Long Range Arena: its generators, its files and their LightningDataModule."""
