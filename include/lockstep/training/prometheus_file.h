// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <lockstep/core/export.h>
#include <lockstep/training/background_writer.h>

#include <filesystem>
#include <future>
#include <map>
#include <memory>
#include <mutex>
#include <string>

namespace lockstep::training {

/// Names and values of labels.
using PrometheusLabels = std::map<std::string, std::string>;

/// What a run is like at the moment, in a file that the textfile collector of Prometheus's
/// node_exporter reads:
///
///     # TYPE train_loss gauge
///     train_loss{rank="0"} 0.31
///
/// Every line has the label `rank`; other ranks write other files. A file appears whole or not at
/// all, and keeps its last values when the run has ended.
///
///     lockstep::training::PrometheusFile status(writer, "/var/lib/node_exporter/run.0.prom", 0);
///     status.gauge("train_loss", loss).counter("train_steps_total", step);
///     status.write();
///
/// Thread-safety: all members may be called by several threads.
/// Owns: a share of the writer.
/// Source: Prometheus, "Exposition formats", text-based format.
class LOCKSTEP_API PrometheusFile {
 public:
  /// The folder of the file is made where there is none. `labels`: those of every line.
  /// Throws: `c10::Error` for no writer, a name that does not end in `.prom`, a negative rank,
  /// names and values of labels that the format does not have, the label `rank`, and a folder that
  /// cannot be made.
  PrometheusFile(std::shared_ptr<BackgroundWriter> writer, const std::filesystem::path& path,
                 int rank = 0, const PrometheusLabels& labels = {});

  /// Sets what may rise and fall.
  /// Throws: `c10::Error` for a name that is not of letters, digits, `_` and `:` or begins with a
  /// digit, for labels as above or of every line, and for the name of a counter.
  PrometheusFile& gauge(const std::string& name, double value, const PrometheusLabels& labels = {});
  /// Sets what only rises, from 0: by convention, the name ends in `_total`. A run that begins anew
  /// may begin with 0.
  /// Throws: as `gauge`, for the name of a gauge, and for a value that is negative, no number, or
  /// less than the one before.
  PrometheusFile& counter(const std::string& name, double value,
                          const PrometheusLabels& labels = {});
  /// Says what `name` means.
  /// Throws: `c10::Error` for a name as above, and for a text that is no UTF-8.
  PrometheusFile& help(const std::string& name, const std::string& text);

  /// Begins to write all values, in the background. Returns whether it did: not while the write
  /// before is under way, whose successor has newer values anyway. What goes wrong is logged and
  /// counted by the writer.
  bool write();
  /// The file as it would be now.
  [[nodiscard]] std::string text() const;

 private:
  enum class Kind { None, Gauge, Counter };
  struct Family {
    Kind kind = Kind::None;
    std::string help;
    std::map<std::string, double> values;  // by the labels as the format has them
  };

  PrometheusFile& set(Kind kind, const std::string& name, double value,
                      const PrometheusLabels& labels);
  [[nodiscard]] std::string text_of_families() const;

  std::shared_ptr<BackgroundWriter> writer_;
  std::filesystem::path path_;
  PrometheusLabels labels_;
  mutable std::mutex mutex_;  // guards families_ and last_
  std::map<std::string, Family> families_;
  std::future<void> last_;
};

}  // namespace lockstep::training
