from neuralign.api import Aligned as Aligned
from neuralign.api import Comparison as Comparison
from neuralign.api import Images as Images
from neuralign.api import Landscape as Landscape
from neuralign.api import Merged as Merged
from neuralign.api import UserError as UserError
from neuralign.api import align as align
from neuralign.api import compare as compare
from neuralign.api import connect as connect
from neuralign.api import evaluate as evaluate
from neuralign.api import landscape as landscape
from neuralign.api import merge as merge
from neuralign.api import permute as permute
from neuralign.api import trace as trace

__version__: str
