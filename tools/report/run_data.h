// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <set>
#include <string>
#include <vector>

namespace report {

/// A value of a step.
struct Point {
  double step = 0;
  double time = 0;  ///< seconds since 1970
  double value = 0;
};

/// Points in the order of their steps, at most so many as a picture can show anyway. A step that is
/// not larger than those before is of a run that was resumed: it replaces them from there on.
class Series {
 public:
  void add(const Point& point);
  [[nodiscard]] const std::vector<Point>& points() const { return points_; }

 private:
  std::vector<Point> points_;
};

/// Fewer points: of each group of neighbours the least and the largest, and those that are no
/// numbers. The first and the last stay.
[[nodiscard]] std::vector<Point> thinned(const std::vector<Point>& points, std::size_t most);

/// What a file gave.
struct FileNote {
  std::string name;
  std::uint64_t lines = 0;
  std::uint64_t unused = 0;
};

/// What the run logs of all ranks say.
struct RunData {
  template <class T>
  using ByRank = std::map<std::int64_t, T>;

  std::map<std::string, ByRank<Series>> numbers;
  std::map<std::string, ByRank<std::string>> texts;  ///< the last ones
  std::set<std::int64_t> ranks;
  ByRank<std::string> logs;        ///< the last that had lines of a rank, without rotation's part
  std::vector<std::string> notes;  ///< of the writers: that lines were lost, and why
  std::vector<FileNote> files;
  std::uint64_t left_out = 0;  ///< values of further names, beyond what a page can show
  double first_time = 0;
  double last_time = 0;
};

/// Adds a log's lines. Lines that are none of a run log are counted.
/// Throws: `std::runtime_error` for a file that cannot be read.
void read_run_log(const std::filesystem::path& path, const std::string& name, RunData& data);

}  // namespace report
