// SPDX-License-Identifier: BSD-3-Clause
#include "progress.h"

#include <algorithm>
#include <cmath>
#include <cstdio>

namespace example {
namespace {

constexpr std::chrono::milliseconds kRedrawInterval{200};
constexpr std::chrono::seconds kLineInterval{10};
constexpr int64_t kBarWidth = 12;  // leaves the whole line within 80 columns

double seconds_between(Progress::Clock::time_point from, Progress::Clock::time_point to) {
  return std::chrono::duration<double>(to - from).count();
}

template <typename... Values>
std::string formatted(const char* format, Values... values) {
  char text[160];
  std::snprintf(text, sizeof text, format, values...);
  return text;
}

std::string bar(int64_t done, int64_t of) {
  const auto filled = static_cast<std::size_t>(kBarWidth * done / of);
  std::string text(filled, '=');
  if (done < of) text += '>';
  text.resize(kBarWidth, ' ');
  return "[" + text + "]";
}

double speed(const Totals& totals, double seconds) {
  return seconds > 0 ? static_cast<double>(totals.samples) / seconds : 0;
}

}  // namespace

Progress::Progress(std::ostream& stream, Style style, RunLength length)
    : stream_(stream), style_(style), length_(length) {}

Progress::~Progress() {
  if (drawn_ > 0) stream_ << std::endl;
}

void Progress::begin_epoch(int64_t epoch, int64_t steps_done) {
  epoch_ = epoch;
  step_ = steps_done;
  epoch_start_ = last_shown_ = Clock::now();
}

void Progress::step(const Totals& totals) {
  const auto now = Clock::now();
  ++step_;
  epoch_seconds_ = seconds_between(epoch_start_, now);
  if (step_ == length_.steps_an_epoch) training_seconds_ += epoch_seconds_;
  if (style_ == Style::Silent) return;
  if (now - last_shown_ < (style_ == Style::Bar ? kRedrawInterval : kLineInterval)) return;
  last_shown_ = now;

  std::string line =
      formatted("epoch %d/%d ", static_cast<int>(epoch_ + 1), static_cast<int>(length_.epochs));
  if (style_ == Style::Bar) line += bar(step_, length_.steps_an_epoch) + " ";
  line += formatted("%3d%%: loss %.3f, accuracy %.3f, %.0f samples/s, ",
                    static_cast<int>(100 * step_ / length_.steps_an_epoch), totals.mean_loss(),
                    totals.accuracy(), speed(totals, epoch_seconds_)) +
          time_left();
  if (style_ == Style::Bar) {
    redraw(line);
  } else {
    stream_ << line << std::endl;
  }
}

void Progress::end_epoch(const Totals& training, const Totals& testing) {
  if (style_ == Style::Silent) return;
  if (style_ == Style::Bar) redraw("");
  drawn_ = 0;
  stream_ << formatted("epoch %d/%d: loss %.3f, accuracy %.3f; test loss %.3f, accuracy %.4f; ",
                       static_cast<int>(epoch_ + 1), static_cast<int>(length_.epochs),
                       training.mean_loss(), training.accuracy(), testing.mean_loss(),
                       testing.accuracy())
          << formatted("%.0f samples/s, ", speed(training, epoch_seconds_)) << time_left()
          << std::endl;
}

void Progress::redraw(const std::string& line) {
  std::string text = line;
  if (text.size() < drawn_) text.resize(drawn_, ' ');
  stream_ << '\r' << text << (line.empty() ? "\r" : "") << std::flush;
  drawn_ = line.size();
}

std::string Progress::time_left() const {
  const auto done = static_cast<double>(epoch_ * length_.steps_an_epoch + step_);
  const auto all = static_cast<double>(length_.epochs * length_.steps_an_epoch);
  return format_duration(seconds_between(start_, Clock::now()) * (all - done) / done) + " left";
}

std::string format_duration(double seconds) {
  const auto whole = static_cast<long long>(std::llround(std::max(0.0, seconds)));
  const auto minutes = whole / 60;
  if (minutes < 60) return formatted("%lld:%02lld", minutes, whole % 60);
  return formatted("%lld:%02lld:%02lld", minutes / 60, minutes % 60, whole % 60);
}

}  // namespace example
