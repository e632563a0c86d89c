// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <lockstep/training/tensorboard.h>

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "training/tensorboard/proto.h"

/// @file
/// Records of event files: the length of an event, its checksum, the event, its checksum. All
/// functions append a record to `out`.
///
/// Source: tensorboard/compat/proto/event.proto and summary.proto,
/// tensorboard/plugins/hparams/*.proto

namespace lockstep::training {

/// When an event was, and of which step it is.
struct EventTime {
  double seconds = 0;  ///< since 1970
  std::int64_t step = 0;
};

/// The longest tag whose scalar fits a `ScalarBuffer`.
constexpr std::size_t kShortTag = 200;
using ScalarBuffer = SmallBuffer<kShortTag + 120>;

/// What `HistogramProto` has.
struct HistogramValues {
  double min = 0;
  double max = 0;
  double sum = 0;
  double sum_squares = 0;
  std::int64_t count = 0;
  std::vector<double> limits;  ///< the right end of each bucket
  std::vector<double> counts;
};

/// What `Summary.Image` has.
struct ImageValue {
  std::int64_t height = 0;
  std::int64_t width = 0;
  std::int64_t channels = 0;
  std::string png;
};

/// The first record of each file.
void put_version_event(std::string& out, double seconds);
/// Points with this step and later ones of older files are not shown. Two records.
void put_resume_events(std::string& out, EventTime time);

/// `is_double`: as a tensor of the plugin "scalars"; otherwise a float.
void put_scalar_event(ScalarBuffer& out, EventTime time, std::string_view tag, double value,
                      bool is_double);
void put_scalar_event(std::string& out, EventTime time, std::string_view tag, double value,
                      bool is_double);
void put_histogram_event(std::string& out, EventTime time, std::string_view tag,
                         const HistogramValues& values);
void put_image_event(std::string& out, EventTime time, std::string_view tag,
                     const ImageValue& image);
void put_text_event(std::string& out, EventTime time, std::string_view tag, std::string_view text);

/// The names and types of hyper-parameters and the tags of metrics, and the values. Two records.
void put_hyperparameter_events(std::string& out, EventTime time, const Hyperparameters& values,
                               const std::vector<std::string>& metrics);
/// How a run with hyper-parameters has ended.
void put_session_end_event(std::string& out, EventTime time, bool is_success);

}  // namespace lockstep::training
