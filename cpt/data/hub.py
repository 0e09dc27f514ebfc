"""Rows of a data set of the hub, loaded by `datasets`."""

from cpt.data.loaded import Rows
from cpt.data.reading import rows_of
from cpt.errors import UserError
from cpt.recipe import Hub

BATCH = 1000  # rows that are converted at once


def load(source: Hub, split: str) -> Rows:
    """The rows of a split of the data set (or of a slice of one).

    Raises:
        UserError: it cannot be downloaded.
        RecipeErrors: see `reading.rows_of`.
    """
    import datasets

    from cpt.data.readers.arrow import dicts

    where = f"{source.path} ({split})"
    try:
        table = datasets.load_dataset(source.path, source.name, split=split, revision=source.revision)
    except (ValueError, OSError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        made = isinstance(error, datasets.exceptions.DatasetGenerationError) and error.__cause__
        first = (str(made or error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(f"{where} cannot be downloaded from the hub: {first}") from error
    batches = table.with_format("arrow").iter(batch_size=BATCH)
    records = enumerate((record for batch in batches for record in dicts(batch)), start=1)
    return rows_of([(f"{where}: row ", records)], source, where)
