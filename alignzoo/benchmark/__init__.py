"""A benchmark of algorithms: the same task for all, over seeds, as rows that can be gone on with.

`alignzoo bench` is its command line. It is handed a registry, and knows none.
"""

from alignzoo.benchmark.budget import Budget as Budget
from alignzoo.benchmark.budget import parse_budget as parse_budget
from alignzoo.benchmark.cells import Cell as Cell
from alignzoo.benchmark.cells import Choice as Choice
from alignzoo.benchmark.cells import Plan as Plan
from alignzoo.benchmark.cells import identify as identify
from alignzoo.benchmark.cells import make_algorithm as make_algorithm
from alignzoo.benchmark.cells import make_plan as make_plan
from alignzoo.benchmark.cells import make_task as make_task
from alignzoo.benchmark.old_summary import Line as Line
from alignzoo.benchmark.old_summary import ranked as ranked
from alignzoo.benchmark.old_summary import summarise as summarise
from alignzoo.benchmark.page import number as number
from alignzoo.benchmark.page import write_page as write_page
from alignzoo.benchmark.results import Results as Results
from alignzoo.benchmark.running import explain as explain
from alignzoo.benchmark.running import failed_row as failed_row
from alignzoo.benchmark.running import run_cell as run_cell
