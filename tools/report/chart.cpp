// SPDX-License-Identifier: BSD-3-Clause
#include "chart.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <set>

#include "text.h"

namespace report {
namespace {

constexpr double kWidth = 560;
constexpr double kHeight = 220;
constexpr double kLeft = 64;
constexpr double kRight = 22;  // half of the last number lies there
constexpr double kTop = 10;
constexpr double kBottom = 26;
constexpr std::size_t kMostDrawn = 800;
constexpr std::size_t kMostRows = 200;

struct Range {
  double least = std::numeric_limits<double>::infinity();
  double largest = -std::numeric_limits<double>::infinity();

  void add(double value) {
    if (!std::isfinite(value)) return;
    least = std::min(least, value);
    largest = std::max(largest, value);
  }
  /// So that it has a length, and a length that is a number.
  void widen() {
    if (least > largest) least = 0, largest = 1;
    least = std::clamp(least, -1e300, 1e300);
    largest = std::clamp(largest, -1e300, 1e300);
    const auto size = std::max(std::abs(least), std::abs(largest));
    if (largest - least > size * 1e-9) return;
    const auto margin = size == 0 ? 1 : std::max(size * 0.1, 1e-300);
    least -= margin;
    largest += margin;
  }
};

/// Round numbers within a range, about so many.
std::vector<double> ticks(const Range& range, int about) {
  const auto rough = (range.largest - range.least) / about;
  const auto power = std::pow(10, std::floor(std::log10(rough)));
  const auto ratio = rough / power;
  const auto step = power * (ratio < 1.5 ? 1 : ratio < 3.5 ? 2 : ratio < 7.5 ? 5 : 10);
  std::vector<double> result;
  const auto first = std::ceil(range.least / step);
  for (double i = first; i * step <= range.largest && result.size() < 20; ++i) {
    result.push_back(i * step + 0.0);  // no minus zero
  }
  return result;
}

class Plot {
 public:
  Plot(Range steps, Range values) : steps_(steps), values_(values) {
    steps_.widen();
    values_.widen();
    const auto margin = (values_.largest - values_.least) * 0.04;
    values_.least -= margin;
    values_.largest += margin;
  }

  [[nodiscard]] double x(double step) const {
    const auto part = (step - steps_.least) / (steps_.largest - steps_.least);
    return kLeft + part * (kWidth - kLeft - kRight);
  }
  [[nodiscard]] double y(double value) const {
    const auto part = (value - values_.least) / (values_.largest - values_.least);
    return kHeight - kBottom - part * (kHeight - kBottom - kTop);
  }

  [[nodiscard]] std::string axes() const {
    std::string svg;
    for (const auto tick : ticks(values_, 4)) {
      const auto at = place(y(tick));
      svg += "<line class=\"grid\" x1=\"" + place(kLeft) + "\" x2=\"" + place(kWidth - kRight) +
             "\" y1=\"" + at + "\" y2=\"" + at + "\"/>";
      svg += "<text class=\"tick\" text-anchor=\"end\" x=\"" + place(kLeft - 6) + "\" y=\"" +
             place(y(tick) + 4) + "\">" + number(tick) + "</text>\n";
    }
    for (const auto tick : ticks(steps_, 6)) {
      if (tick != std::floor(tick)) continue;  // there is no half step
      svg += "<text class=\"tick\" text-anchor=\"middle\" x=\"" + place(x(tick)) + "\" y=\"" +
             place(kHeight - 8) + "\">" + number(tick) + "</text>\n";
    }
    return svg;
  }

  [[nodiscard]] std::string line(const std::vector<Point>& points,
                                 const std::string& colour) const {
    std::string svg;
    std::string path;
    std::size_t length = 0;
    const Point* last = nullptr;
    const auto end = [&] {
      if (length == 1) {  // a line of one point would not be seen
        svg += "<circle class=\"dot " + colour + "\" r=\"3\" cx=\"" + place(x(last->step)) +
               "\" cy=\"" + place(y(last->value)) + "\"/>\n";
      } else if (length > 1) {
        svg += "<polyline class=\"line " + colour + "\" points=\"" + path + "\"/>\n";
      }
      path.clear();
      length = 0;
    };
    for (const auto& point : points) {
      if (!std::isfinite(point.value)) {
        end();
        svg += "<path class=\"odd\" d=\"M" + place(x(point.step) - 4) + ' ' +
               place(kHeight - kBottom) + "l4 -8l4 8z\"><title>" + number(point.value) +
               " at step " + number(point.step) + "</title></path>\n";
        continue;
      }
      path += (length == 0 ? "" : " ") + place(x(point.step)) + ',' + place(y(point.value));
      last = &point;
      ++length;
    }
    end();
    return svg;
  }

 private:
  Range steps_;
  Range values_;
};

std::string legend(const std::vector<Curve>& curves, const std::string& unit) {
  std::string html = "<ul class=\"legend\">";
  for (std::size_t i = 0; i < curves.size(); ++i) {
    const auto& points = curves[i].points;
    Range range;
    for (const auto& point : points) range.add(point.value);
    html += "<li><span class=\"key " + colour_class(i) + "\"></span>" + escaped(curves[i].name) +
            ": <b>" + number(points.back().value) + escaped(unit) + "</b>";
    if (range.least < range.largest) {
      html += " <span class=\"muted\">(" + number(range.least) + " to " + number(range.largest) +
              ")</span>";
    }
    html += "</li>";
  }
  return html + "</ul>\n";
}

std::string table(const std::vector<Curve>& curves) {
  std::string html = "<details><summary>Values</summary><div class=\"scroll\"><table><tr>";
  html += "<th>step</th>";
  std::vector<std::vector<Point>> columns;
  std::set<double> steps;
  for (const auto& curve : curves) {
    html += "<th>" + escaped(curve.name) + "</th>";
    columns.push_back(thinned(curve.points, kMostRows));
    for (const auto& point : columns.back()) steps.insert(point.step);
  }
  html += "</tr>\n";
  std::vector<std::size_t> next(columns.size());
  for (const auto step : steps) {
    html += "<tr><td>" + exact_number(step) + "</td>";
    for (std::size_t i = 0; i < columns.size(); ++i) {
      const bool has = next[i] < columns[i].size() && columns[i][next[i]].step == step;
      html += "<td>" + (has ? exact_number(columns[i][next[i]++].value) : std::string()) + "</td>";
    }
    html += "</tr>\n";
  }
  return html + "</table></div></details>\n";
}

}  // namespace

std::string colour_class(std::size_t index) {
  return "c" + std::to_string(index % kColours);
}

std::string chart(const std::string& title, const std::vector<Curve>& all,
                  const std::string& unit) {
  std::vector<Curve> curves;
  for (const auto& curve : all) {
    if (!curve.points.empty()) curves.push_back(curve);
  }
  if (curves.empty()) return "";
  Range steps;
  Range values;
  for (auto& curve : curves) {
    for (const auto& point : curve.points) {
      steps.add(point.step);
      values.add(point.value);
    }
  }
  const Plot plot(steps, values);
  std::string html = "<figure class=\"card\"><figcaption>" + escaped(title) + "</figcaption>\n";
  html += "<svg role=\"img\" aria-label=\"" + escaped(title) + "\" viewBox=\"0 0 " + place(kWidth) +
          ' ' + place(kHeight) + "\">\n" + plot.axes();
  for (std::size_t i = 0; i < curves.size(); ++i) {
    html += plot.line(thinned(curves[i].points, kMostDrawn), colour_class(i));
  }
  return html + "</svg>\n" + legend(curves, unit) + table(curves) + "</figure>\n";
}

std::string bar(const std::vector<Share>& shares) {
  double sum = 0;
  for (const auto& share : shares) sum += std::max(0.0, share.value);
  if (!(sum > 0) || !std::isfinite(sum)) return "";
  std::string html =
      "<svg class=\"bar\" role=\"img\" aria-label=\"shares\" viewBox=\"0 0 560 22\" "
      "preserveAspectRatio=\"none\">";
  double begin = 0;
  for (std::size_t i = 0; i < shares.size(); ++i) {
    const auto width = std::max(0.0, shares[i].value) / sum * kWidth;
    html += "<rect class=\"fill " + colour_class(i) + "\" x=\"" + place(begin) + "\" width=\"" +
            place(width) + "\" height=\"22\"><title>" + escaped(shares[i].name) + ": " +
            number(shares[i].value / sum * 100) + " %</title></rect>";
    begin += width;
  }
  return html + "</svg>\n";
}

}  // namespace report
