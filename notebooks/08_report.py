# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#       format_version: '1.3'
#       jupytext_version: 1.19.6
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 08 · The report: result, uncertainty, paper, truth
#
# **The question.** What did this run find, how sure is it, and does it support what the paper says?
# For a digital twin: did the analysis recover what was put in?
#
# It answers for every figure and every number of the paper that the steps before have measured.

# %% [markdown]
# **You will learn** to read a value with its interval against a stated one, and why agreement on a
# twin proves the method and not the physics.
#
# **You need** a run folder in which some of the steps 00–07 have run. What is missing is named, not
# invented. **It takes** ten to twenty seconds.

# %%
import pandas as pd
import yaml

from mesotomo_utils.analysis import claims, verdicts
from mesotomo_utils.twin import compare
from mesotomo_utils.visualization import figures, report_figures
from mesotomo_utils.workflow import report, report_tables, results
from mesotomo_utils.workflow.sample import load_sample

figures.use_style()

# %% tags=["parameters"]
sample = "runs/small/input/sample.yaml"  # the sample file of the run
run_dir = "runs/small"  # the run folder
device = "auto"  # not used here: nothing is computed on arrays
paper_file = "data/paper_values.yaml"  # what the paper states

# %% [markdown]
# ## What ran
#
# A step that was skipped says why: a needle without quantum dots has no orientations to report.

# %%
name = load_sample(sample).name
steps = report.step_table(run_dir)
steps

# %% [markdown]
# ## What was measured
#
# One row for each named value of the whole sample. The uncertainty is one standard error; the
# interval holds 95 %. Values per layer and per axis are in `results.json`.

# %%
rows = results.join(run_dir)
pd.set_option("display.max_rows", 200)
report.results_table(rows)

# %% [markdown]
# ## What the paper states
#
# Each number stands with its place in the paper, whether this run has measured it or not. Some are ranges, some
# bounds. *Supports*: the 95 % interval holds the stated value, or lies within the bound. *Contradicts*: it excludes it.
# *Cannot tell*: there is no interval, or it also holds the value that would mean "no effect". An exact count
# supports the same count and contradicts any other.

# %%
with open(paper_file, encoding="utf-8") as file:
    document = yaml.safe_load(file)
paper = verdicts.statements(document)  # with what the claims below ask
stated = verdicts.stated_rows(rows, verdicts.statements({"values": document["values"]}))
said = {"What the paper states in numbers": report_tables.stated_table(stated)}
said["What the paper states in numbers"]

# %% [markdown]
# ## What the paper says in words
#
# A claim is supported where every number that it rests on supports it, contradicted where one contradicts it, and
# open else. Bounds that the paper does not give are ours, and `data/paper_values.yaml` says why.

# %%
judged = claims.claim_rows(rows, document["claims"], paper)
said = {"What the paper says in words": report_tables.claims_table(judged)} | said
pd.set_option("display.max_colwidth", None)
said["What the paper says in words"].style.hide().set_properties(**{"white-space": "pre-line", "text-align": "left"})

# %% [markdown]
# ## Is it better than the earlier sample?
#
# The paper compares with the sample of its reference 40, whose numbers come without errors. Ours is different where
# its interval excludes the earlier value.

# %%
earlier = claims.earlier_rows(rows, document["earlier_sample"])
said["Beside the earlier sample"] = report_tables.earlier_table(earlier)
said["Beside the earlier sample"]

# %% [markdown]
# ## The truth, where there is one
#
# Only a twin has a `truth/` folder, and only this notebook and `mesotomo check` open it. Errors are
# taken after one rigid motion fitted to all dots, since no tilt series knows where the laboratory's
# origin is:
#
# $$ \hat x = Q\,x + t, \qquad \min_{Q,t} \sum_i \lVert Q\,x_i + t - x_i^\mathrm{true} \rVert^2 . $$
#
# What is true of a result is the twin's own account of this sample, not the generator's parameters. Raw values, errors,
# p-values, counts of flagged dots and margins are no property of the sample and have no truth; nor has what only
# images have, such as a signal over noise.

# %%
is_twin = results.exists(run_dir, "truth/dots.csv")
comparison, matched = compare.compare_if_twin(run_dir)
truth = compare.true_statements(run_dir) if is_twin else {}
notes = [report.WHAT_A_TWIN_PROVES, report.WHAT_A_TWIN_LACKS]
print("\n".join(notes) if is_twin else "A real sample: there is no truth to compare with.")

# %% [markdown]
# Every imaged twin is made under the same conditions, and none is eased for a nicer result:

# %%
conditions = compare.imaging_conditions(run_dir)
conditions

# %% [markdown]
# The bounds below must hold for any twin, whatever its seed, cell, width or film tilt; some only where it is imaged no
# worse than by default, or where it has dots enough.

# %%
bounds = pd.DataFrame(comparison.get("bounds", {})).T
bounds

# %% [markdown]
# All errors, stage by stage:

# %%
error_table = report.error_table(comparison)
error_table

# %% [markdown]
# ## How the errors are spread
#
# A median hides the tail. Look for a second hump: it would be dots found in the wrong place, or
# lattices indexed wrongly. Drawn are the whole dots, up to their 99th percentile; cut dots are worse. Compare with the
# σ of the half sets: what is beyond it is systematic.

# %%
if len(matched):
    fig = report_figures.error_histograms(matched)
    results.save_figure(fig, run_dir, "errors", matched)

# %% [markdown]
# ## Verdicts
#
# Every result that the paper or the truth says something of, with both verdicts. Where a twin contradicts the paper
# and yet agrees with its own truth, notebook 00 tells what gave way when it was made.

# %%
compared = verdicts.compared_rows(rows, paper, truth)
pd.DataFrame(compared)

# %% [markdown]
# A case whose answer is known: an interval from 0.8 to 1.2 supports 1, contradicts 2, and cannot tell
# 1 from "nothing" where nothing means 0.9.

# %%
assert verdicts.verdict([0.8, 1.2], {"value": 1.0}) == "supports"
assert verdicts.verdict([0.8, 1.2], {"value": 2.0}) == "contradicts"
assert verdicts.verdict([0.8, 1.2], {"value": 1.0, "null": 0.9}) == "cannot_tell"

# %% [markdown]
# The same at a glance: each value divided by the paper's, from 0 to 2; an interval that ends in an arrow runs on. A value
# that has no counterpart in the paper is left out. The number of dots is that of this needle, not of the paper's.

# %%
if any(isinstance(row["paper"], int | float) for row in compared):
    fig = report_figures.stated_and_measured(compared)
    saved = results.save_figure(fig, run_dir, "paper_and_truth", pd.DataFrame(compared))

# %% [markdown]
# ## Exercises
#
# 1. Count the verdicts against the paper and against the truth. Which of the two should be all
#    *supports* for a twin, and how many exceptions do you expect of 95 % intervals?
# 2. Which dot has the largest error of its centre, and is it near the surface of the needle?

# %% tags=["solution"]
verdict_counts = pd.DataFrame(compared).filter(like="verdict").apply(pd.Series.value_counts)
verdict_counts  # against the truth; of N intervals about N / 20 miss

# %% tags=["solution"]
matched.nlargest(3, "error_nm") if len(matched) else "no truth: no errors"

# %% [markdown]
# ## One page of everything
#
# The same tables and all figures as `report.html` and `report.pdf`.

# %%
paper_said = {"claims": judged, "numbers": stated, "earlier_sample": earlier}
results.write_json(run_dir, "comparison.json", comparison | {"conditions": conditions, "paper": paper_said})
report.write_report(run_dir, name, rows, compared, comparison, conditions, said)

# %% [markdown]
# ## The record
#
# The verdicts are joined into `results.json`, beside the values that they judge.

# %%
results.record(run_dir, "08_report", report.error_values(comparison), comparison=compared)

# %% [markdown]
# **What comes next.** Open `report.html` in the run folder. Then bring your own tilt series: the README
# shows the few lines of YAML that it needs.
