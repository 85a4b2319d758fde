"""A benchmark of algorithms: the same task for all, over seeds, as rows that can be gone on with.

`alignzoo bench` is its command line. It is handed a registry, and knows none.
"""

from alignzoo.benchmark.budget import Budget as Budget
from alignzoo.benchmark.budget import parse_budget as parse_budget
from alignzoo.benchmark.cells import Cell as Cell
from alignzoo.benchmark.cells import Choice as Choice
from alignzoo.benchmark.cells import Plan as Plan
from alignzoo.benchmark.cells import make_plan as make_plan
from alignzoo.benchmark.cells import make_task as make_task
from alignzoo.benchmark.comparing import compare as compare
from alignzoo.benchmark.figures import write_figures as write_figures
from alignzoo.benchmark.page import write_page as write_page
from alignzoo.benchmark.results import Results as Results
from alignzoo.benchmark.rows import is_failed as is_failed
from alignzoo.benchmark.rows import load_rows as load_rows
from alignzoo.benchmark.running import explain as explain
from alignzoo.benchmark.running import failed_row as failed_row
from alignzoo.benchmark.running import run_cell as run_cell
from alignzoo.benchmark.summary import summarise as summarise
from alignzoo.benchmark.tables import markdown as markdown
