"""The demonstration as one page: charts over time, the table, and the evidence. Pure; needs no other file.

Charts are SVG made here. Colours are the reader's choice of light or dark.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from html import escape

from lab.chart import Chart, decades, even, log, log1, rates, rolling, trimmed
from lab.checked import Check, end, named, start
from lab.demonstrated import (
    ATTACKER,
    CLIENT,
    GUESTS,
    SURGE,
    VICTIM,
    Demonstration,
    allowed_latency_s,
    before,
    busy,
    deciding,
    during,
    in_force,
    stretch,
)
from lab.figures import percentile
from lab.liar import LIAR
from lab.style import STYLE
from lab.watched import Case

_ACTS = {
    "grab": "Act 1 · D asks for all it can",
    "surge": "Act 2 · B is suddenly popular",
    "flood": "Act 3 · A floods B",
    "lie": "Act 4 · D lies",
    "after": "Afterwards",
}
_SO = "An attacker named, its victim protected, nobody else disturbed"
_NOT_SO = "Not everything went as promised"
_ZOOM = (-0.4, 2.0)
_ZOOM_BIN_S, _BIN_S = 0.02, 0.5


def html(seen: Demonstration, judged: Sequence[Check]) -> str:
    """The page."""
    wrong = sum(not check.ok for check in judged)
    badge = f"{wrong} of {len(judged)} not as promised" if wrong else f"All {len(judged)} checks as promised"
    made = datetime.fromtimestamp(seen.made_at).astimezone().strftime("%Y-%m-%d %H:%M")
    host = ", ".join(f"{escape(key)} {escape(value)}" for key, value in seen.host.items() if key != "image")
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>Hypervigil: {escape(badge)}</title>
<style>{STYLE}</style>
</head>
<body>
<header>
<p class="eyebrow">Hypervigil · demonstration</p>
<h1>{_NOT_SO if wrong else _SO}</h1>
<p class="badge {"bad" if wrong else "good"}">{"✗" if wrong else "✓"} {escape(badge)}</p>
<p class="meta">{made} · {host} · {seen.took_s.get("total", 0):.0f} s in all</p>
</header>
<main>
<section class="pair">
<figure class="card">{_scene(seen)}</figure>
<div class="tiles">{"".join(_tiles(seen))}</div>
</section>
<section><h2>The first two seconds</h2>
<p class="lead">Packets per second of the flood, counted by the lab itself: what A sends, and what of it reaches B.</p>
<figure class="card">{_first_seconds(seen)}</figure></section>
<section><h2>The whole story</h2>
<p class="lead">Four minutes on one axis. Shaded: the acts. Everything here is counted by the lab, nothing by
Hypervigil.</p>
<figure class="card">{"".join(_charts(seen))}</figure></section>
<section><h2>A guest that lies</h2>
<p class="lead">Hypervigil's agent runs in D. Root of D kills it, says what it said in a calm time again, with fresh
numbers and times, and sends B packets meanwhile. The lab counts what it sends.</p>
<figure class="card">{_lie(seen)}</figure>{_on_record(seen)}</section>
<section><h2>Expected and decided</h2>{_table(judged)}</section>
<section><h2>Why it decided so</h2>
<p class="lead">In Hypervigil's own words: the cause, what would have cleared the accused, and the evidence.</p>
<div class="cases">{"".join(_cases(seen)) or "<p>No case was opened.</p>"}</div></section>
<section><h2>What was limited, and for how long</h2>{_limits(seen)}</section>
</main>
<footer>
<p>C's latency is that of every single request, from the time at which it was due to its last byte. Its usual p95 may
grow by half. All numbers are in <code>demo.json</code> beside
this page.</p>
</footer>
</body>
</html>
"""


# --- the picture of who does what to whom ---


def _scene(seen: Demonstration) -> str:
    sent, arrived = (sum(p.frames for p in parts) for parts in (seen.flood.sent, seen.flood.delivered))
    usual = before(seen, CLIENT)
    width = max(1.5, 14 * math.sqrt(arrived / sent)) if sent else 1.5
    roles = {name: (deciding(seen, name, seen.flood.began_s, math.inf) or None) for name in GUESTS}

    def node(name: str, x: int, y: int, what: str) -> str:
        case = roles[name]
        role = case.role if case and case.role else "innocent"
        return (
            f'<g class="node {name}"><circle cx="{x}" cy="{y}" r="38"/>'
            f'<text class="name" x="{x}" y="{y + 11}">{name.upper()}</text>'
            f'<text class="role" x="{x}" y="{y + 60}">{escape(role)}</text>'
            f'<text class="what" x="{x}" y="{y + 78}">{escape(what)}</text></g>'
        )

    return f"""<svg viewBox="0 48 520 290" role="img" aria-label="A floods B; almost nothing arrives; C works on">
<path class="flow a" d="M120 108 H 232" stroke-width="14"/>
<path class="flow a" d="M276 108 H 384" stroke-width="{width:.1f}"/>
<rect class="gate" x="238" y="66" width="32" height="84" rx="6"/>
<text class="gate" x="254" y="176">limit at A's own port</text>
<text class="num a" x="172" y="92">{sent:,}</text><text class="small" x="172" y="136">packets sent</text>
<text class="num a" x="332" y="92">{arrived:,}</text><text class="small" x="332" y="130">arrived</text>
<path class="flow c" d="M140 262 C 250 262 330 220 392 150" stroke-width="3"/>
<text class="num c" x="300" y="262">{usual.rate:.1f} → {during(seen, CLIENT).rate:.1f}</text>
<text class="small" x="300" y="280">requests/s, before → during the flood</text>
{node(ATTACKER, 78, 108, "floods")}
{node(VICTIM, 426, 108, "serves a page")}
{node(CLIENT, 98, 250, "asks for it")}
</svg>"""


def _tiles(seen: Demonstration) -> Iterable[str]:
    onset = seen.flood.onset_s
    attacker = deciding(seen, ATTACKER, seen.flood.began_s, math.inf)
    limits = [limit for limit in in_force(seen, ATTACKER) if end(limit) > seen.flood.began_s]
    sent, arrived = (sum(p.frames for p in parts) for parts in (seen.flood.sent, seen.flood.delivered))
    if onset is not None and limits:
        yield _tile(f"{start(limits[0]) - onset:.2f} s", "from A's first packet until it was limited", "a")
    if onset is not None and attacker is not None and attacker.decided_at is not None:
        yield _tile(f"{attacker.decided_at - onset:.2f} s", f"until it was named {attacker.role or '–'}", "a")
    if sent:
        yield _tile(f"{_share(1 - arrived / sent)}", "of the flood never reached B", "b")
    asked = stretch(seen.work[SURGE], seen.surge.began_s, seen.flood.began_s)
    yield _tile(f"{asked.failed:,} failed", f"of {asked.ok + asked.failed:,} requests of the honest crowd", "b")
    usual, hit = before(seen, CLIENT), during(seen, CLIENT)
    if usual.rate:
        yield _tile(f"{hit.rate / usual.rate:.0%}", "of C's request rate kept during the flood", "c")
    if usual.p95_s is not None and hit.p95_s is not None:
        yield _tile(f"{1000 * usual.p95_s:.0f} → {1000 * hit.p95_s:.0f} ms", "C's p95 latency, before → during", "c")


def _tile(number: str, words: str, of: str) -> str:
    return f'<div class="tile {of}"><b>{escape(number)}</b><span>{escape(words)}</span></div>'


def _share(value: float) -> str:
    """A share near one without rounding it up to all."""
    return f"{math.floor(1000 * value) / 10:.1f} %"


# --- charts ---


def _charts(seen: Demonstration) -> Iterable[str]:
    yield _chart_rate(seen)
    yield _chart_latency(seen)
    yield _chart_flood(seen)
    yield _chart_surge(seen)
    yield _chart_busy(seen)


def _over_time(
    seen: Demonstration,
    title: str,
    unit: str,
    ticks: Sequence[tuple[float, str]],
    scale: Callable[[float], float],
    *,
    names: bool = False,
    height: int = 190,
) -> Chart:
    """A chart of the whole time, with its acts."""
    chart = Chart(title, 0.0, seen.ended_s, ticks, scale, height=height, unit=unit)
    chart.band(seen.grab.began_s, seen.grab.ended_s, "surge", "Act 1: grab" if names else "")
    chart.band(seen.surge.began_s, seen.surge.ended_s, "surge", "Act 2: surge" if names else "")
    chart.band(seen.flood.began_s, seen.flood.ended_s, "flood", "Act 3: flood" if names else "")
    chart.band(seen.lie.began_s, seen.lie.ended_s, "flood", "Act 4: lie" if names else "")
    return chart


def _chart_rate(seen: Demonstration) -> str:
    seconds = [second for second in seen.work[CLIENT] if second.at_s > 1]
    most = max((second.ok for second in seconds), default=8) + 2
    chart = _over_time(seen, "C's requests answered", "a second", even(most), lambda v: v / most, names=True)
    usual = before(seen, CLIENT).rate
    if usual:
        chart.level(usual, "c", f"usual, {usual:.1f}")
    chart.steps([(second.at_s - 1, second.ok) for second in seconds], 1.0, "c thin", filled=False)
    chart.line(rolling(seconds, lambda some: sum(s.ok for s in some) / len(some)), "c", "mean of 5 s")
    failed = [(second.at_s - 0.5, float(second.failed)) for second in seconds if second.failed]
    chart.dots(failed, "bad", "failed", radius=4) if failed else chart.legend.append(("dot bad", "failed: none"))
    return chart.svg()


def _chart_latency(seen: Demonstration) -> str:
    seconds = [second for second in seen.work[CLIENT] if second.at_s > 1]
    dots = [
        (second.at_s - 1 + (number + 0.5) / len(second.latencies_s), 1000 * latency)
        for second in seconds
        for number, latency in enumerate(second.latencies_s)
    ]
    most = max([100.0, *(value for _, value in dots)])
    low, high = 0.0, math.log10(most * 1.15)
    ticks = [(float(value), f"{value:,} ms") for value in (1, 3, 10, 30, 100, 300, 1000, 3000) if value <= most]
    chart = _over_time(seen, "C's latency", "every request, and the p95 of 5 s", ticks, log(low, high))
    chart.dots(dots, "c faint", "a request")
    p95 = rolling(seconds, lambda some: percentile([one for second in some for one in second.latencies_s], 0.95))
    chart.line([(at, 1000 * value) for at, value in p95], "c", "p95")
    usual = before(seen, CLIENT).p95_s
    if usual is not None:
        allowed = allowed_latency_s(usual)
        at = chart.y(1000 * allowed)
        left, right = chart.x(seen.flood.onset_s or seen.flood.began_s), chart.x(seen.flood.ended_s)
        chart.parts.append(f'<path class="level bad" d="M{left:.1f} {at:.1f}H{right:.1f}"/>')
        chart.legend.append(("level bad", f"p95 allowed in the flood, {1000 * allowed:.0f} ms"))
    return chart.svg()


def _chart_flood(seen: Demonstration) -> str:
    sent = rates(seen.flood.sent, 0.0, seen.ended_s, _BIN_S)
    arrived = rates(seen.flood.delivered, 0.0, seen.ended_s, _BIN_S)
    most = max([1000.0, *(value for _, value in sent)])
    chart = _over_time(seen, "The flood", "packets a second, each step ten times more", decades(most), log1(most))
    chart.steps(trimmed(sent), _BIN_S, "a", "sent by A")
    chart.steps(trimmed(arrived), _BIN_S, "b", "arrived at B")
    limits = [limit for limit in in_force(seen, ATTACKER) if end(limit) > seen.flood.began_s]
    if limits:
        chart.mark(start(limits[0]), "A limited", "a", 0)
        freed = max(end(limit) for limit in limits)
        if freed <= seen.ended_s:
            chart.mark(freed, "A free again", "good", 0)
    return chart.svg()


def _chart_surge(seen: Demonstration) -> str:
    served = [second for second in seen.work[VICTIM] if second.at_s > 1]
    crowd = seen.work[SURGE]
    most = max([10.0, *(float(second.ok) for second in (*served, *crowd))]) * 1.1
    chart = _over_time(seen, "What B serves", "requests a second", even(most), lambda v: v / most)
    chart.steps([(second.at_s - 1, float(second.ok)) for second in served], 1.0, "b", "served by B, to everybody")
    chart.steps(
        [(second.at_s - 1, float(second.ok)) for second in crowd if second.ok or second.failed],
        1.0,
        "crowd",
        "answers that the crowd got",
        filled=False,
    )
    failed = [(second.at_s - 0.5, float(second.failed)) for second in crowd if second.failed]
    chart.dots(failed, "bad", "failed", radius=4) if failed else chart.legend.append(("dot bad", "failed: none"))
    return chart.svg()


def _chart_busy(seen: Demonstration) -> str:
    ticks = [(0.0, "0 %"), (0.5, "50 %"), (1.0, "100 %")]
    unit = f"all {seen.host.get('cores', '')} cores"
    chart = _over_time(seen, "The host's CPU in use", unit, ticks, lambda v: v, height=120)
    chart.line([(used.at_s, used.share) for used in seen.busy], "cpu", "in use")
    chart.line([(used.at_s, used.others) for used in seen.busy], "bad thin", "of it by nobody of this demonstration")
    mean = busy(seen, seen.flood.onset_s or seen.flood.began_s, seen.flood.ended_s)
    if mean is not None:
        chart.legend.append(("", f"during the flood {mean.share:.0%}, by others {mean.others:.0%}"))
    return chart.svg()


def _first_seconds(seen: Demonstration) -> str:
    onset = seen.flood.onset_s
    if onset is None:
        return "<p>A sent nothing.</p>"
    low, high = onset + _ZOOM[0], onset + _ZOOM[1]
    sent = rates(seen.flood.sent, low, high, _ZOOM_BIN_S)
    arrived = rates(seen.flood.delivered, low, high, _ZOOM_BIN_S)
    most = max([1000.0, *(value for _, value in sent)]) * 1.5  # room for words above
    chart = _close("A's packets", *_ZOOM, most, every_s=0.2, digits=1, unit="a second")
    chart.steps([(at - onset, value) for at, value in sent], _ZOOM_BIN_S, "a", "sent by A")
    chart.steps([(at - onset, value) for at, value in arrived], _ZOOM_BIN_S, "b strong", "arrived at B")
    for row, (at, label, kind) in enumerate(sorted(_moments(seen))):
        chart.mark(at - onset, f"{label} {at - onset:+.2f} s", kind, row)
    return chart.svg()


def _close(title: str, low_s: float, high_s: float, most: float, *, every_s: float, digits: int, unit: str) -> Chart:
    """A chart of packets over some seconds around a moment."""
    return Chart(
        title,
        low_s,
        high_s,
        even(most),
        lambda value: value / most,
        height=300,
        every_s=every_s,
        time_label=lambda at: f"{at:+.{digits}f} s" if abs(at) > 1e-9 else "0",
        unit=unit,
    )


def _moments(seen: Demonstration) -> Iterable[tuple[float, str, str]]:
    attacker = deciding(seen, ATTACKER, seen.flood.began_s, math.inf)
    victim = deciding(seen, VICTIM, seen.flood.began_s, math.inf)
    limits = [limit for limit in in_force(seen, ATTACKER) if end(limit) > seen.flood.began_s]
    if attacker is not None:
        yield attacker.opened_at, "A is looked at closely (Level 2)", "plain"
        if attacker.decided_at is not None:
            yield attacker.decided_at, f"A is named {attacker.role}", "a"
    if limits:
        yield start(limits[0]), "limit in force", "good"
    if victim is not None and victim.decided_at is not None:
        yield victim.decided_at, f"B is named {victim.role}", "b"


def _lie(seen: Demonstration) -> str:
    """What D sends, what is said in its agent's name, and when that was found out."""
    lie = seen.lie
    low, high = lie.began_s - 3.0, lie.ended_s + 3.0
    sent = rates(lie.sent, low, high, _BIN_S)
    most = max([50.0, *(value for _, value in sent)]) * 1.7  # room for words above
    unit = "a second; times count from the end of the agent"
    chart = _close("D's packets", low - lie.began_s, high - lie.began_s, most, every_s=5.0, digits=0, unit=unit)
    chart.steps([(at - lie.began_s, value) for at, value in sent], _BIN_S, "a", "sent by D")
    if lie.told:
        seconds = range(int(lie.ended_s - lie.replayed_s))
        said = [(lie.replayed_s + at - lie.began_s, lie.told[at % len(lie.told)]) for at in seconds]
        chart.steps(said, 1.0, "b strong", "said in its agent's name", filled=False)
    for row, (at, label, kind) in enumerate(sorted(_lie_moments(seen))):
        chart.mark(at - lie.began_s, label, kind, row)
    return chart.svg()


def _lie_moments(seen: Demonstration) -> Iterable[tuple[float, str, str]]:
    lie = seen.lie
    yield lie.began_s, "its agent is killed", "plain"
    yield lie.replayed_s, "old reports are said again", "plain"
    if lie.silent is not None:
        yield lie.silent.at_s, f"silence on record {lie.silent.at_s - lie.began_s:+.1f} s", "good"
    if lie.onset_s is None:
        return
    if lie.contradicted is not None:
        yield lie.contradicted.at_s, f"lie on record {lie.contradicted.at_s - lie.onset_s:+.1f} s after onset", "good"
    case = deciding(seen, LIAR, lie.began_s, math.inf)
    if case is not None and case.decided_at is not None:
        yield case.decided_at, f"D is named {case.role} {case.decided_at - lie.onset_s:+.1f} s after onset", "a"


def _on_record(seen: Demonstration) -> str:
    """The facts of D's agent, in the product's words."""
    facts = "".join(
        f"<li>{fact.at_s - seen.lie.began_s:+.2f} s: {escape(named(fact.text))}</li>" for fact in seen.lie.facts
    )
    return (
        f'<article class="card case open"><p class="who"><b>On record of D\'s agent</b></p><ul>{facts}</ul></article>'
    )


# --- words ---


def _table(judged: Sequence[Check]) -> str:
    rows = []
    act = ""
    for check in judged:
        if check.act != act:
            act = check.act
            rows.append(f'<tr class="act"><th colspan="6">{escape(_ACTS.get(act, act))}</th></tr>')
        mark = '<td class="ok">✓</td>' if check.ok else '<td class="no">✗</td>'
        rows.append(
            f"<tr class='{'right' if check.ok else 'wrong'}'>{mark}<td class='of'>{escape(check.of)}</td>"
            f"<td>{escape(check.expected)}</td><td><b>{escape(check.decided)}</b></td>"
            f"<td class='when'>{escape(check.when)}</td><td class='why'>{escape(check.evidence)}</td></tr>"
        )
    head = "<th></th><th></th><th>expected</th><th>decided</th><th>when</th><th>on which evidence</th>"
    return f'<div class="card scroll"><table><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'


def _cases(seen: Demonstration) -> Iterable[str]:
    for case in sorted(seen.cases, key=lambda case: case.opened_at):
        yield _case(seen, case)


def _case(seen: Demonstration, case: Case) -> str:
    name = case.name or "?"
    onset = seen.flood.onset_s
    flood = case.opened_at >= seen.flood.began_s and onset is not None
    since, of = (onset or 0.0, "flood") if flood else (seen.surge.began_s, "surge")
    if case.opened_at < seen.surge.began_s:
        since, of = seen.grab.began_s, "grab"
    if case.opened_at >= seen.lie.began_s:
        since, of = seen.lie.began_s if seen.lie.onset_s is None else seen.lie.onset_s, "lie"
    times = [f"opened {case.opened_at - since:+.2f} s", *(
        f"{word} {at - since:+.2f} s" for word, at in (("decided", case.decided_at), ("closed", case.closed_at)) if at
    )]  # fmt: skip
    facts = "".join(f"<li>{escape(named(fact.text))}</li>" for fact in case.evidence)
    clear = f'<p class="counter">It {escape(named(case.counterfactual))}.</p>' if case.counterfactual else ""
    return f"""<article class="card case {escape(case.role or "open")}">
<p class="who"><b>{escape(name.upper())}</b><span class="role">{escape(case.role or "undecided")}</span>
<span class="times">{escape(", ".join(times))}, from the beginning of the {of}</span></p>
<p class="cause">{escape(named(case.cause or "Nothing was decided."))}.</p>
{clear}<ul>{facts}</ul></article>"""


def _limits(seen: Demonstration) -> str:
    limits = in_force(seen)
    if not limits:
        return "<p>Nobody was limited.</p>"
    origin = seen.flood.onset_s if seen.flood.onset_s is not None else seen.flood.began_s
    rows = "".join(
        f"<tr><td class='of'>{escape((limit.name or '?').upper())}</td><td>{escape(limit.kind)}</td>"
        f"<td class='when'>{'–' if limit.value is None else f'{limit.value:,.6g}/s'}</td>"
        f"<td>{escape(', '.join(limit.classes).upper() or 'all')} {escape(limit.direction or '')}</td>"
        f"<td class='when'>{start(limit) - origin:+.2f} s</td><td class='when'>{end(limit) - origin:+.2f} s</td>"
        f"<td>{'ended' if limit.lifted_at is not None else 'stands'}</td></tr>"
        for limit in limits
    )
    head = "".join(f"<th>{word}</th>" for word in ("", "limit", "value", "of", "from", "to", ""))
    return (
        f'<div class="card scroll"><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>'
        '<p class="meta">Times count from the first packet of the flood.</p></div>'
    )
