// SPDX-License-Identifier: BSD-3-Clause
#include "sections.h"

#include <algorithm>
#include <utility>

#include "chart.h"
#include "statistics.h"
#include "text.h"

namespace report {
namespace {

constexpr std::size_t kMostCurves = 16;  // of a chart
constexpr std::size_t kMostCharts = 200;

using Cells = std::vector<std::string>;

/// `rows` are HTML.
std::string table(const Cells& head, const std::vector<Cells>& rows) {
  std::string html = "<div class=\"scroll\"><table><tr>";
  for (const auto& cell : head) html += "<th>" + escaped(cell) + "</th>";
  html += "</tr>\n";
  for (const auto& row : rows) {
    html += "<tr>";
    for (const auto& cell : row) html += "<td>" + cell + "</td>";
    html += "</tr>\n";
  }
  return html + "</table></div>\n";
}

/// `body` is HTML.
std::string section(const std::string& id, const std::string& title, const std::string& body) {
  if (body.empty()) return "";
  return "<section id=\"" + id + "\"><h2>" + escaped(title) + "</h2>\n" + body + "</section>\n";
}

std::string remark(const std::string& text) {
  return "<p class=\"muted\">" + escaped(text) + "</p>\n";
}

std::string rank_name(std::int64_t rank) {
  return "rank " + std::to_string(rank);
}

/// `of(rank)` for the ranks that a chart has room for.
template <typename Of>
std::vector<Curve> curves_of_ranks(const RunData& data, const Of& of) {
  std::vector<Curve> result;
  for (const auto rank : data.ranks) {
    auto points = of(rank);
    if (points.empty()) continue;
    if (result.size() == kMostCurves) break;
    result.push_back({rank_name(rank), std::move(points)});
  }
  return result;
}

std::string percent(double part, double of) {
  return of > 0 ? number(100 * part / of) + " %" : "";
}

std::string milliseconds(double seconds) {
  return number(seconds * 1e3) + " ms";
}

void add_figure(std::string& html, const std::string& name, const std::string& value) {
  if (value.empty()) return;
  html += "<div class=\"figure card\"><span class=\"muted\">" + escaped(name) + "</span><b>" +
          escaped(value) + "</b></div>\n";
}

double last_step(const RunData& data) {
  double step = 0;
  for (const auto& [name, by_rank] : data.numbers) {
    for (const auto& [rank, series] : by_rank) step = std::max(step, series.points().back().step);
  }
  return step;
}

/// Over all ranks.
double sum_over_ranks(const RunData& data, const std::string& name) {
  double sum = 0;
  for (const auto rank : data.ranks) sum += grown(points_of(data, name, rank));
  return sum;
}

}  // namespace

std::string summary(const RunData& data, const std::vector<CheckpointFolder>& checkpoints) {
  std::string html;
  if (!data.ranks.empty()) {
    const auto first = *data.ranks.begin();
    add_figure(html, "Ranks", std::to_string(data.ranks.size()));
    add_figure(html, "Last step", number(last_step(data)));
    add_figure(html, "Time", duration(data.last_time - data.first_time));
    const auto speeds = step_rates(data, first);
    if (!speeds.empty()) add_figure(html, "Steps a second, at last", number(speeds.back().value));
    const auto seconds = sum_over_ranks(data, "loader/seconds");
    add_figure(html, "Time without data",
               percent(sum_over_ranks(data, "loader/stall_seconds"), seconds));
    for (const auto& [name, by_rank] : data.numbers) {
      const auto [prefix, field] = split_name(name);
      if (field != "loss" || !statistics_kind(prefix).empty()) continue;
      add_figure(html, name + ", at last", number(by_rank.begin()->second.points().back().value));
    }
  }
  std::size_t saved = 0;
  for (const auto& folder : checkpoints) {
    saved += static_cast<std::size_t>(
        std::count_if(folder.checkpoints.begin(), folder.checkpoints.end(),
                      [](const auto& one) { return one.failure.empty() && one.is_there; }));
  }
  if (!checkpoints.empty()) add_figure(html, "Checkpoints", std::to_string(saved));
  return html.empty() ? "" : "<div class=\"figures\">" + html + "</div>\n";
}

std::string curves(const RunData& data) {
  std::string html;
  std::size_t charts = 0;
  std::size_t more = 0;
  for (const auto& [name, by_rank] : data.numbers) {
    if (!statistics_kind(split_name(name).first).empty()) continue;
    if (charts == kMostCharts) {
      ++more;
      continue;
    }
    html += chart(name, curves_of_ranks(data, [&, &of = name](std::int64_t rank) {
                    return points_of(data, of, rank);
                  }));
    ++charts;
  }
  if (!html.empty()) html = "<div class=\"charts\">" + html + "</div>\n";
  if (more > 0) html += remark("There are " + counted(more, "more name") + ".");
  std::vector<Cells> rows;
  for (const auto& [name, by_rank] : data.texts) {
    if (!statistics_kind(split_name(name).first).empty()) continue;
    for (const auto& [rank, text] : by_rank) {
      rows.push_back({escaped(name), rank_name(rank), escaped(text)});
    }
  }
  if (!rows.empty()) html += table({"text", "rank", "last"}, rows);
  return section("curves", "Curves", html);
}

std::string throughput(const RunData& data) {
  std::string html =
      chart("Steps a second",
            curves_of_ranks(data, [&](std::int64_t rank) { return step_rates(data, rank); }));
  for (const auto& prefix : prefixes_of(data, "loader")) {
    html += chart("Samples a second: " + prefix, curves_of_ranks(data, [&](std::int64_t rank) {
                    return rates(points_of(data, prefix + "/samples", rank), {}, true);
                  }));
  }
  if (!html.empty()) html = "<div class=\"charts\">" + html + "</div>\n";
  return section("throughput", "Throughput", html);
}

std::string step_phases(const RunData& data) {
  std::string bars;
  std::vector<Cells> rows;
  Cells head{"rank"};
  for (const auto rank : data.ranks) {
    const auto shares = phases(data, rank);
    if (shares.empty()) continue;
    Cells row{rank_name(rank)};
    double sum = 0;
    for (const auto& share : shares) {
      if (rows.empty()) head.push_back(share.name);
      row.push_back(milliseconds(share.value));
      sum += share.value;
    }
    row.push_back(milliseconds(sum));
    if (rows.size() < kMostCurves) bars += "<p>" + rank_name(rank) + "</p>" + bar(shares);
    rows.push_back(row);
  }
  if (rows.empty()) return "";
  std::string html = "<div class=\"card\">" + bars + "<ul class=\"legend\">";
  for (std::size_t i = 1; i < head.size(); ++i) {
    html +=
        "<li><span class=\"key " + colour_class(i - 1) + "\"></span>" + escaped(head[i]) + "</li>";
  }
  head.emplace_back("step");
  html += "</ul>\n" + table(head, rows) +
          remark(
              "Means of all steps. 'rest' is what the loader's passes took beyond that: the "
              "optimizer and the program.") +
          "</div>\n";
  const auto first = *data.ranks.begin();
  std::vector<Curve> lines;
  for (const std::string name : {"forward", "backward", "communication", "exposed"}) {
    auto points = rates(points_of(data, "ddp/" + name + "_seconds", first),
                        points_of(data, "ddp/steps", first));
    for (auto& point : points) point.value *= 1e3;
    lines.push_back({name, std::move(points)});
  }
  html += "<div class=\"charts\">" +
          chart("Milliseconds a step, " + rank_name(first), lines, " ms") + "</div>\n";
  return section("phases", "Parts of a step", html);
}

std::string loader_stalls(const RunData& data) {
  std::string html;
  for (const auto& prefix : prefixes_of(data, "loader")) {
    html += "<div class=\"charts\">" +
            chart("Share of the time without data: " + prefix,
                  curves_of_ranks(data,
                                  [&](std::int64_t rank) {
                                    return rates(points_of(data, prefix + "/stall_seconds", rank),
                                                 points_of(data, prefix + "/seconds", rank));
                                  })) +
            "</div>\n";
    std::vector<Cells> rows;
    const auto texts = data.texts.find(prefix + "/bottleneck");
    for (const auto rank : data.ranks) {
      const auto value = [&](const char* field) {
        return grown(points_of(data, prefix + '/' + field, rank));
      };
      if (points_of(data, prefix + "/seconds", rank).empty()) continue;
      const bool has_text = texts != data.texts.end() && texts->second.contains(rank);
      rows.push_back({rank_name(rank), number(value("batches")), number(value("samples")),
                      duration(value("seconds")), number(value("stall_seconds")) + " s",
                      percent(value("stall_seconds"), value("seconds")), number(value("restarts")),
                      number(value("lost_batches")),
                      has_text ? escaped(texts->second.at(rank)) : ""});
    }
    html += "<div class=\"card\">" +
            table({prefix, "batches", "samples", "in passes", "waited", "share", "workers replaced",
                   "batches lost", "who holds up training"},
                  rows) +
            "</div>\n";
  }
  return section("loader", "Waiting for data", html);
}

std::string checkpoints(const RunData& data, const std::vector<CheckpointFolder>& folders) {
  std::string html;
  for (const auto& folder : folders) {
    std::vector<Cells> rows;
    for (const auto& one : folder.checkpoints) {
      const std::string state = !one.failure.empty() ? "failed: " + escaped(one.failure)
                                : one.is_there       ? "is there"
                                                     : "removed";
      rows.push_back({std::to_string(one.generation), std::to_string(one.step),
                      std::to_string(one.world_size), escaped(one.metric),
                      one.failure.empty() ? bytes(one.bytes) : "", std::to_string(one.files),
                      state});
    }
    html += "<div class=\"card\"><p>" + escaped(folder.name) + "</p>\n";
    html += rows.empty()
                ? remark("No checkpoint yet.")
                : table({"generation", "step", "ranks", "metric", "size", "files", "state"}, rows);
    html += "</div>\n";
  }
  std::vector<Cells> rows;
  for (const auto& prefix : prefixes_of(data, "checkpoints")) {
    for (const auto rank : data.ranks) {
      const auto value = [&](const char* field) {
        return grown(points_of(data, prefix + '/' + field, rank));
      };
      if (points_of(data, prefix + "/saves", rank).empty()) continue;
      const auto saves = value("saves");
      rows.push_back({escaped(prefix), rank_name(rank), number(saves), number(value("failures")),
                      bytes(value("bytes")),
                      saves > 0 ? milliseconds(value("stall_seconds") / saves) : "",
                      saves > 0 ? milliseconds(value("writing_seconds") / saves) : ""});
    }
  }
  if (!rows.empty()) {
    html += "<div class=\"card\">" +
            table({"statistics", "rank", "saves", "failures", "written", "training held up, each",
                   "written in the background, each"},
                  rows) +
            "</div>\n";
  }
  return section("checkpoints", "Checkpoints", html);
}

std::string prometheus(const std::vector<PrometheusTable>& tables) {
  std::string html;
  for (const auto& one : tables) {
    std::vector<Cells> rows;
    for (const auto& sample : one.samples) {
      rows.push_back({escaped(sample.name), escaped(sample.labels), escaped(sample.value)});
    }
    html += "<div class=\"card\"><p>" + escaped(one.name) + "</p>\n" +
            (rows.empty() ? remark("No values.") : table({"name", "labels", "value"}, rows)) +
            "</div>\n";
  }
  return section("prometheus", "For Prometheus", html);
}

std::string sources(const RunData& data, const std::vector<FileNote>& files) {
  std::vector<Cells> rows;
  for (const auto& file : files) {
    rows.push_back({escaped(file.name), std::to_string(file.lines), std::to_string(file.unused)});
  }
  std::string html = table({"file", "lines", "lines that could not be read"}, rows);
  for (const auto& note : data.notes) html += "<p class=\"warning\">" + escaped(note) + "</p>\n";
  if (data.left_out > 0) {
    html += remark(counted(data.left_out, "value") + " of further names were left out.");
  }
  return section("sources", "Files", "<div class=\"card\">" + html + "</div>\n");
}

}  // namespace report
