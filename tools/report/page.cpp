// SPDX-License-Identifier: BSD-3-Clause
#include "page.h"

#include <string_view>
#include <vector>

#include "run_data.h"
#include "run_files.h"
#include "sections.h"
#include "text.h"

namespace report {
namespace {

// Colours that people with weak sight for red and green tell apart, on light and on dark.
constexpr std::string_view kStyle = R"css(
:root { --ground: #f6f8fa; --card: #fff; --ink: #1f2328; --muted: #59636e; --grid: #e4e8ec; --edge: #d0d7de; --warn: #b35900;
  --c0: #0969da; --c1: #d1622b; --c2: #1a7f5a; --c3: #a24bb5; --c4: #9a6700; --c5: #0e8a9a; --c6: #cf3a5a; --c7: #6e7781; }
@media (prefers-color-scheme: dark) { :root { --ground: #0d1117; --card: #161b22; --ink: #e6edf3; --muted: #9198a1; --grid: #2a313a;
  --edge: #30363d; --warn: #f0a050; --c0: #58a6ff; --c1: #f0883e; --c2: #3fb98a; --c3: #d08be0; --c4: #d8b03a; --c5: #4cc3d4;
  --c6: #ff7b93; --c7: #a0a8b2; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 24px; max-width: 1240px; background: var(--ground); color: var(--ink);
  font: 14px/1.5 system-ui, Helvetica, Arial, sans-serif; }
h1 { font-size: 24px; margin: 0; overflow-wrap: anywhere; } h2 { font-size: 18px; margin: 32px 0 12px; }
.muted { color: var(--muted); } .warning { color: var(--warn); } p { margin: 6px 0; overflow-wrap: anywhere; }
.card { background: var(--card); border: 1px solid var(--edge); border-radius: 8px; padding: 12px 16px; margin: 0 0 16px; }
.figures { display: flex; flex-wrap: wrap; gap: 12px; margin-top: 16px; }
.figure { margin: 0; } .figure b { display: block; font-size: 20px; } .figure span { font-size: 12px; }
.charts { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 480px), 1fr)); gap: 16px; align-items: start; }
figure.card { margin: 0; min-width: 0; } figcaption { font-weight: 600; overflow-wrap: anywhere; }
.charts + .card, .card + .charts { margin-top: 16px; }
svg { width: 100%; height: auto; display: block; } svg.bar { height: 22px; border-radius: 4px; }
.grid { stroke: var(--grid); } .tick { fill: var(--muted); font-size: 11px; } .odd { fill: var(--warn); }
.line { fill: none; stroke-width: 1.8; stroke-linejoin: round; }
.legend { list-style: none; display: flex; flex-wrap: wrap; gap: 2px 16px; margin: 6px 0; padding: 0; font-size: 13px; }
.key { display: inline-block; width: 10px; height: 10px; border-radius: 2px; margin-right: 6px; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 13px; }
th, td { text-align: left; padding: 3px 16px 3px 0; border-bottom: 1px solid var(--grid); vertical-align: top; }
th { color: var(--muted); font-weight: 500; } .scroll { overflow: auto; max-height: 420px; }
details summary { cursor: pointer; color: var(--muted); font-size: 13px; }
)css";

std::string colours() {
  std::string css;
  for (const char* digit : {"0", "1", "2", "3", "4", "5", "6", "7"}) {
    const std::string name = std::string("c") + digit;
    css += ".line." + name + " { stroke: var(--" + name + "); } .dot." + name + ", .fill." + name +
           " { fill: var(--" + name + "); } .key." + name + " { background: var(--" + name +
           "); }\n";
  }
  return css;
}

}  // namespace

std::string page_of(const std::filesystem::path& folder) {
  const auto found = find_run_files(folder);
  const auto name_of = [&](const std::filesystem::path& path) {
    return path.lexically_relative(folder).string();
  };
  RunData data;
  data.notes = found.notes;
  for (const auto& path : found.logs) read_run_log(path, name_of(path), data);
  auto files = data.files;
  std::vector<PrometheusTable> tables;
  for (const auto& path : found.prometheus) {
    files.push_back({name_of(path), 0, 0});
    tables.push_back({name_of(path), read_prometheus(path, files.back())});
  }
  std::vector<CheckpointFolder> folders;
  for (const auto& path : found.manifests) {
    files.push_back({name_of(path), 0, 0});
    folders.push_back({name_of(path.parent_path()), read_manifest(path, files.back())});
  }

  const auto title = escaped(std::filesystem::absolute(folder).lexically_normal().string());
  std::string html = "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n";
  // Whatever files have in them, nothing of it runs or is fetched.
  html +=
      "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src "
      "'unsafe-inline'\">\n";
  html +=
      "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n"
      "<meta name=\"color-scheme\" content=\"light dark\">\n<title>" +
      title + "</title>\n<style>";
  html += kStyle;
  html += colours() + "</style></head>\n<body>\n<h1>" + title + "</h1>\n";
  html += data.ranks.empty() ? "<p class=\"muted\">The run has logged no values yet.</p>\n"
                             : "<p class=\"muted\">" + date(data.first_time) + " to " +
                                   date(data.last_time) + "</p>\n";
  html += summary(data, folders) + curves(data) + throughput(data) + step_phases(data) +
          loader_stalls(data) + checkpoints(data, folders) + prometheus(tables) +
          sources(data, files);
  return html + "</body></html>\n";
}

}  // namespace report
