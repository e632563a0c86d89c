// SPDX-License-Identifier: BSD-3-Clause
#include <c10/util/Exception.h>
#include <lockstep/training/progress.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <string_view>

namespace lockstep::training {
namespace {

constexpr std::int64_t kBarWidth = 8;  // leaves a line with two values within 80 columns
constexpr std::size_t kUsualColumns = 80;
constexpr std::size_t kFewestColumns = 20;

template <typename... Values>
std::string formatted(const char* format, Values... values) {
  std::array<char, 64> text{};
  std::snprintf(text.data(), text.size(), format, values...);
  return text.data();
}

std::string bar(std::int64_t done, std::int64_t of) {
  const auto filled = static_cast<std::size_t>(kBarWidth * std::min(done, of) / of);
  std::string text(filled, '=');
  if (done < of) text += '>';
  text.resize(kBarWidth, ' ');
  return "[" + text + "]";
}

std::string joined(const ProgressValues& values, int digits) {
  std::string text;
  for (const auto& [name, value] : values) {
    if (!text.empty()) text += ", ";
    text += name;
    text += formatted(" %.*g", digits, value);
  }
  return text;
}

double rate(std::int64_t samples, std::chrono::duration<double> time) {
  return time.count() > 0 ? static_cast<double>(samples) / time.count() : 0;
}

/// Characters of UTF-8, not bytes: what begins one.
bool begins_character(char byte) {
  return (static_cast<unsigned char>(byte) & 0xC0) != 0x80;
}

std::size_t width_of(std::string_view text) {
  return static_cast<std::size_t>(std::count_if(text.begin(), text.end(), begins_character));
}

void cut(std::string& text, std::size_t width) {
  std::size_t seen = 0;
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (begins_character(text[i]) && ++seen > width) {
      text.resize(i);
      return;
    }
  }
}

std::size_t columns_of_terminal() {
  for (const int file : {STDOUT_FILENO, STDERR_FILENO}) {
    struct winsize size {};
    if (::ioctl(file, TIOCGWINSZ, &size) == 0 && size.ws_col >= kFewestColumns) return size.ws_col;
  }
  return kUsualColumns;
}

}  // namespace

ProgressStyle choose_progress_style(int rank) {
  if (rank != 0) return ProgressStyle::Silent;
  const char* terminal = std::getenv("TERM");
  const bool can_redraw = terminal != nullptr && std::string_view(terminal) != "dumb";
  const bool is_seen = ::isatty(STDOUT_FILENO) == 1 && ::isatty(STDERR_FILENO) == 1;
  return can_redraw && is_seen ? ProgressStyle::Bar : ProgressStyle::Lines;
}

Progress::Progress(std::ostream& stream, ProgressOptions options)
    : stream_(stream), options_(std::move(options)) {
  TORCH_CHECK(options_.epochs() >= 1, "Progress: ", options_.epochs(),
              " epochs; it takes 1 or more");
  TORCH_CHECK(options_.steps_per_epoch() >= 0, "Progress: ", options_.steps_per_epoch(),
              " steps an epoch; it takes 0 or more");
  if (options_.columns() == 0) options_.columns(columns_of_terminal());
  TORCH_CHECK(options_.columns() >= kFewestColumns, "Progress: ", options_.columns(),
              " columns; it takes 0 for those of the terminal, or ", kFewestColumns, " or more");
  TORCH_CHECK(options_.clock() != nullptr, "Progress: there is no clock");
  start_ = epoch_start_ = last_shown_ = options_.clock()();
}

Progress::~Progress() {
  try {
    if (drawn_ > 0) stream_ << std::endl;
  } catch (const std::exception&) {  // of a stream with exceptions(): nobody is left to tell
  }
}

void Progress::begin_epoch(std::int64_t epoch, std::int64_t steps_done) {
  TORCH_CHECK(epoch >= 0 && epoch < options_.epochs(), "Progress: epoch ", epoch, " of ",
              options_.epochs(), "; they count from 0");
  TORCH_CHECK(steps_done >= 0 &&
                  (options_.steps_per_epoch() == 0 || steps_done <= options_.steps_per_epoch()),
              "Progress: ", steps_done, " steps are done, of ", options_.steps_per_epoch());
  epoch_ = epoch;
  step_ = steps_done;
  earlier_epochs_ += this_epoch_;
  this_epoch_ = {};
  epoch_samples_ = 0;
  epoch_start_ = last_shown_ = options_.clock()();
}

void Progress::step(std::int64_t samples, const std::function<ProgressValues()>& values) {
  const auto now = options_.clock()();
  ++step_;
  ++steps_here_;
  samples_ += samples;
  epoch_samples_ += samples;
  this_epoch_ = now - epoch_start_;
  const bool is_bar = options_.style() == ProgressStyle::Bar;
  if (options_.style() == ProgressStyle::Silent) return;
  if (now - last_shown_ < (is_bar ? options_.redraw_interval() : options_.line_interval())) return;
  last_shown_ = now;

  std::string line = head();
  const auto of = options_.steps_per_epoch();
  if (of > 0) {
    if (is_bar) line += " " + bar(step_, of);
    line += formatted(" %3lld%%", static_cast<long long>(100 * std::min(step_, of) / of));
  } else {
    line += formatted(", step %lld", static_cast<long long>(step_));
  }
  line += ": ";
  const std::string shown = values ? joined(values(), is_bar ? 3 : 4) : "";
  if (!shown.empty()) line += shown + "; ";
  line += tail();
  if (is_bar) {
    redraw(line);
  } else {
    stream_ << line << std::endl;
  }
}

void Progress::end_epoch(const ProgressValues& values) {
  if (options_.style() == ProgressStyle::Silent) return;
  if (options_.style() == ProgressStyle::Bar) redraw("");
  drawn_ = 0;
  std::string line = head() + ": ";
  if (!values.empty()) line += joined(values, 4) + "; ";
  line += tail();
  stream_ << line << std::endl;
}

std::chrono::duration<double> Progress::training_time() const {
  return earlier_epochs_ + this_epoch_;
}

double Progress::samples_per_second() const {
  return rate(samples_, training_time());
}

std::string Progress::head() const {
  return formatted("epoch %lld/%lld", static_cast<long long>(epoch_ + 1),
                   static_cast<long long>(options_.epochs()));
}

/// Speed of the epoch, and the time that is left at the pace so far, tests included.
std::string Progress::tail() const {
  std::string text = formatted("%.0f ", rate(epoch_samples_, this_epoch_));
  text += options_.unit();
  text += "/s";
  const auto of = options_.steps_per_epoch();
  if (of == 0 || steps_here_ == 0) return text;
  // In floating point: a run without end has as many epochs as an integer holds.
  const double all = static_cast<double>(options_.epochs() - epoch_) * static_cast<double>(of);
  const double left = std::max(0.0, all - static_cast<double>(step_));
  const std::chrono::duration<double> passed = options_.clock()() - start_;
  text += ", ";
  text += format_duration(passed * left / static_cast<double>(steps_here_));
  return text + " left";
}

void Progress::redraw(const std::string& line) {
  std::string text = line;
  cut(text, options_.columns() - 1);
  const auto width = width_of(text);
  std::string blanks(drawn_ > width ? drawn_ - width : 0, ' ');
  stream_ << '\r' << text << blanks << (line.empty() ? "\r" : "") << std::flush;
  drawn_ = width;
}

std::string format_duration(std::chrono::duration<double> duration) {
  const auto whole = static_cast<long long>(std::llround(std::max(0.0, duration.count())));
  const auto minutes = whole / 60;
  if (minutes < 60) return formatted("%lld:%02lld", minutes, whole % 60);
  return formatted("%lld:%02lld:%02lld", minutes / 60, minutes % 60, whole % 60);
}

}  // namespace lockstep::training
