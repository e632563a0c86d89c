// SPDX-License-Identifier: BSD-3-Clause
// The C++ side of tests/python/scheduler_parity_driver.py: the same schedules make the same steps.
#include <gtest/gtest.h>
#include <lockstep/optim/lr_scheduler.h>
#include <torch/torch.h>

#include <bit>
#include <cmath>
#include <cstdlib>
#include <fstream>
#include <functional>
#include <memory>
#include <sstream>
#include <string>
#include <vector>

namespace lockstep::optim::lr_scheduler {
namespace {

using torch::optim::Optimizer;

std::string parity_file(const char* name) {
  const char* folder = std::getenv("LOCKSTEP_PARITY_FOLDER");
  if (folder == nullptr) throw std::runtime_error("scheduler_parity_driver.py starts this program");
  return std::string(folder) + "/" + name;
}

/// The words of one line.
class Words {
 public:
  explicit Words(const std::string& line) : words_(line) {}

  std::string text() {
    std::string word;
    if (!(words_ >> word)) throw std::runtime_error("a line of the driver ends too early");
    return word;
  }
  double number() { return std::strtod(text().c_str(), nullptr); }
  std::int64_t integer() { return std::stoll(text()); }
  bool flag() { return integer() != 0; }
  std::optional<std::int64_t> integer_or_none() {
    const auto word = text();
    return word == "none" ? std::nullopt : std::optional<std::int64_t>(std::stoll(word));
  }
  std::vector<double> rest() {
    std::vector<double> all;
    for (std::string word; words_ >> word;) all.push_back(std::strtod(word.c_str(), nullptr));
    return all;
  }
  std::string rest_of_line() {
    std::string line;
    std::getline(words_ >> std::ws, line);
    return line;
  }
  bool are_left() { return (words_ >> std::ws).good(); }

 private:
  std::istringstream words_;
};

/// As LAMBDAS of the driver.
LRLambda lambda_of(std::int64_t which, double parameter) {
  if (which == 0)
    return [=](std::int64_t t) { return std::pow(parameter, static_cast<double>(t)); };
  return [=](std::int64_t t) { return 1.0 / (1.0 + parameter * static_cast<double>(t)); };
}

/// A schedule by what the driver calls it, with defaults where a word is missing. Made anew as
/// often as it is called.
using Build = SchedulePart::Build;

template <class Kind, class... Arguments>
Build builder(std::int64_t last_epoch, Arguments... arguments) {
  return [=](const ScheduledOptimizer& optimizer) {
    return std::make_shared<Kind>(optimizer, arguments..., last_epoch);
  };
}

Build cyclic(Words& words) {
  const double base = words.number();
  const double top = words.number();
  CyclicLROptions options(base, top);
  options.step_size_up(words.integer()).step_size_down(words.integer_or_none());
  const auto mode = words.text();
  options.gamma(words.number()).cycle_momentum(words.flag());
  if (words.flag()) {
    options.scale_fn([](double x) { return 1.0 / (1.0 + 0.1 * x); }).scale_mode(mode);
  } else {
    options.mode(mode);
  }
  return [=](const ScheduledOptimizer& optimizer) {
    return std::make_shared<CyclicLR>(optimizer, options);
  };
}

Build one_cycle(Words& words) {
  OneCycleLROptions options(words.number());
  options.total_steps(words.integer()).pct_start(words.number()).anneal_strategy(words.text());
  options.cycle_momentum(words.flag()).div_factor(words.number()).final_div_factor(words.number());
  options.three_phase(words.flag());
  return [=](const ScheduledOptimizer& optimizer) {
    return std::make_shared<OneCycleLR>(optimizer, options);
  };
}

Build build_of(Words& words, std::int64_t last);

Build composite(Words& words, bool is_sequential) {
  const auto count = words.integer();
  std::vector<std::int64_t> milestones;
  for (std::int64_t i = 1; is_sequential && i < count; ++i) milestones.push_back(words.integer());
  std::vector<SchedulePart> parts;
  for (std::int64_t i = 0; i < count; ++i) parts.emplace_back(build_of(words, -1));
  return [=](const ScheduledOptimizer& optimizer) -> std::shared_ptr<LRScheduler> {
    if (is_sequential) return std::make_shared<SequentialLR>(optimizer, parts, milestones);
    return std::make_shared<ChainedScheduler>(optimizer, parts);
  };
}

Build multi_step(Words& words, std::int64_t last) {
  const double gamma = words.number();
  std::vector<std::int64_t> milestones(static_cast<std::size_t>(words.integer()));
  for (auto& milestone : milestones) milestone = words.integer();
  return builder<MultiStepLR>(last, milestones, gamma);
}

/// Of classes whose trailing words may be missing.
Build with_defaults(const std::string& name, Words& words, std::int64_t last) {
  const bool has_arguments = words.are_left();
  if (name == "ConstantLR") {
    if (!has_arguments) return builder<ConstantLR>(last, 1.0 / 3, std::int64_t{5});
    const double factor = words.number();
    return builder<ConstantLR>(last, factor, words.integer());
  }
  if (name == "LinearLR") {
    if (!has_arguments) return builder<LinearLR>(last, 1.0 / 3, 1.0, std::int64_t{5});
    const double start = words.number();
    const double end = words.number();
    return builder<LinearLR>(last, start, end, words.integer());
  }
  if (name == "PolynomialLR") {
    if (!has_arguments) return builder<PolynomialLR>(last, std::int64_t{5}, 1.0);
    const auto total = words.integer();
    return builder<PolynomialLR>(last, total, words.number());
  }
  if (name == "StepLR") {
    const auto size = words.integer();
    return builder<StepLR>(last, size, words.are_left() ? words.number() : 0.1);
  }
  if (name == "CosineAnnealingLR") {
    const auto t_max = words.integer();
    return builder<CosineAnnealingLR>(last, t_max, words.are_left() ? words.number() : 0.0);
  }
  if (name == "CosineAnnealingWarmRestarts") {
    const auto t_0 = words.integer();
    const auto t_mult = words.are_left() ? words.integer() : 1;
    return builder<CosineAnnealingWarmRestarts>(last, t_0, t_mult,
                                                words.are_left() ? words.number() : 0.0);
  }
  const double rate = words.number();
  const auto epochs = words.are_left() ? words.integer() : 10;
  const std::string strategy = words.are_left() ? words.text() : "cos";
  return builder<SWALR>(last, PerGroup(rate), epochs, strategy);
}

Build build_of(Words& words, std::int64_t last) {
  const auto name = words.text();
  if (name == "SequentialLR" || name == "ChainedScheduler") {
    return composite(words, name == "SequentialLR");
  }
  if (name == "CyclicLR") return cyclic(words);
  if (name == "OneCycleLR") return one_cycle(words);
  if (name == "MultiStepLR") return multi_step(words, last);
  if (name == "ExponentialLR") return builder<ExponentialLR>(last, words.number());
  if (name == "LambdaLR" || name == "MultiplicativeLR") {
    const auto which = words.integer();
    const auto lambda = lambda_of(which, words.number());
    if (name == "LambdaLR") return builder<LambdaLR>(last, lambda);
    return builder<MultiplicativeLR>(last, lambda);
  }
  return with_defaults(name, words, last);
}

ReduceLROnPlateauOptions plateau_of(Words& words) {
  ReduceLROnPlateauOptions options;
  options.mode(words.text()).factor(words.number()).patience(words.integer());
  options.threshold(words.number()).threshold_mode(words.text()).cooldown(words.integer());
  return options.min_lr(words.number()).eps(words.number());
}

/// A `case` line.
struct Case {
  explicit Case(Words words) : name(words.text()), kind(words.text()), last_epoch(words.integer()) {
    rates.resize(static_cast<std::size_t>(words.integer()));
    for (double& rate : rates) rate = words.number();
    // `with_defaults` needs to know where a schedule ends, which only the outermost can.
    if (auto rest = words.rest_of_line(); rest.starts_with("ReduceLROnPlateau ")) {
      Words arguments(rest.substr(rest.find(' ')));
      plateau = plateau_of(arguments);
    } else {
      Words arguments(rest);
      build = build_of(arguments, last_epoch);
    }
  }

  std::string name;
  std::string kind;
  std::int64_t last_epoch;
  std::vector<double> rates;
  Build build;
  std::optional<ReduceLROnPlateauOptions> plateau;
};

/// An optimizer and its schedule.
class Subject {
 public:
  explicit Subject(const Case& one) : optimizer_(make_optimizer(one)) {
    if (one.plateau) {
      plateau_ = std::make_shared<ReduceLROnPlateau>(*optimizer_, *one.plateau);
    } else if (one.last_epoch == -1) {
      scheduler_ = one.build(*optimizer_);
    } else {
      auto initial = one.rates;
      for (double& rate : initial) rate *= 2;
      scheduler_ = one.build(ScheduledOptimizer(*optimizer_, initial));
    }
  }

  [[nodiscard]] Schedule& schedule() const {
    return plateau_ ? static_cast<Schedule&>(*plateau_) : *scheduler_;
  }
  [[nodiscard]] std::size_t groups() const { return optimizer_->param_groups().size(); }

  void step(std::optional<double> argument) {
    if (plateau_) {
      plateau_->step(argument.value());
    } else if (argument) {
      dynamic_cast<CosineAnnealingWarmRestarts&>(*scheduler_).step(*argument);
    } else {
      scheduler_->step();
    }
  }

  /// As if the state of the other's optimizer was loaded.
  void take_options(const Subject& other) {
    for (std::size_t i = 0; i < groups(); ++i) {
      optimizer_->param_groups()[i].set_options(
          std::as_const(*other.optimizer_).param_groups()[i].options().clone());
    }
  }

  /// As `observed` of the driver.
  [[nodiscard]] std::vector<double> observed() const {
    std::vector<double> values;
    for (auto& group : optimizer_->param_groups()) {
      values.push_back(group.options().get_lr());
      if (const auto* sgd = dynamic_cast<torch::optim::SGDOptions*>(&group.options())) {
        values.push_back(sgd->momentum());
      } else if (const auto* adam = dynamic_cast<torch::optim::AdamOptions*>(&group.options())) {
        values.push_back(std::get<0>(adam->betas()));
      } else {
        values.push_back(
            std::get<0>(dynamic_cast<torch::optim::AdamWOptions&>(group.options()).betas()));
      }
    }
    return values;
  }

 private:
  template <class Options>
  static std::vector<torch::optim::OptimizerParamGroup> make_groups(const Case& one,
                                                                    const Options& options) {
    std::vector<torch::optim::OptimizerParamGroup> groups;
    for (const double rate : one.rates) {
      auto own = std::make_unique<Options>(options);
      own->lr(rate);
      groups.emplace_back(std::vector<torch::Tensor>{torch::zeros({1})}, std::move(own));
    }
    return groups;
  }
  static std::unique_ptr<Optimizer> make_optimizer(const Case& one) {
    if (one.kind == "sgd") {
      const auto options = torch::optim::SGDOptions(1.0).momentum(0.5);
      return std::make_unique<torch::optim::SGD>(make_groups(one, options), options);
    }
    if (one.kind == "adam") {
      const torch::optim::AdamOptions options(1.0);
      return std::make_unique<torch::optim::Adam>(make_groups(one, options), options);
    }
    const torch::optim::AdamWOptions options(1.0);
    return std::make_unique<torch::optim::AdamW>(make_groups(one, options), options);
  }

  std::unique_ptr<Optimizer> optimizer_;
  std::shared_ptr<LRScheduler> scheduler_;
  std::shared_ptr<ReduceLROnPlateau> plateau_;
};

bool same_bits(const std::vector<double>& a, const std::vector<double>& b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(), [](double x, double y) {
    return std::bit_cast<std::uint64_t>(x) == std::bit_cast<std::uint64_t>(y);
  });
}

/// The rates alone: what a state of Python's has. Python has momentum in that of the optimizer.
std::vector<double> rates_of(const std::vector<double>& observed) {
  std::vector<double> rates;
  for (std::size_t i = 0; i < observed.size(); i += 2) rates.push_back(observed[i]);
  return rates;
}

/// Plays one case: a schedule that goes straight on, one that is made anew from its own state where
/// the driver says so, and one from Python's.
class Player {
 public:
  explicit Player(const Case& one) : one_(one) {}

  void begin() {
    straight_ = std::make_unique<Subject>(one_);
    reloaded_ = std::make_unique<Subject>(one_);
    from_python_ = std::make_unique<Subject>(one_);
  }

  /// Whether all of them are where the driver says.
  bool are_at(Words& words) {
    expected_ = words.rest();
    return same_bits(straight_->observed(), expected_) &&
           same_bits(reloaded_->observed(), expected_) &&
           same_bits(from_python_->observed(), expected_);
  }

  void step(Words& words, bool has_argument) {
    std::optional<double> argument;
    if (has_argument) argument = words.number();
    for (auto* subject : {straight_.get(), reloaded_.get(), from_python_.get()}) {
      subject->step(argument);
    }
  }

  /// Each of them refuses, and is as it was.
  bool refuses(Words& words) {
    std::optional<double> argument;
    if (words.are_left()) argument = words.number();
    const bool is_whole =
        one_.build && dynamic_cast<CompositeLR*>(&straight_->schedule()) == nullptr;
    for (auto* subject : {straight_.get(), reloaded_.get(), from_python_.get()}) {
      const auto state = subject->schedule().state();
      try {
        subject->step(argument);
        return false;
      } catch (const c10::Error&) {
        if (is_whole && subject->schedule().state() != state) return false;
      }
    }
    return true;
  }

  bool takes_state(const std::string& python, std::ostream& states) {
    const auto own = straight_->schedule().state();
    states << one_.name << ' ' << own << '\n';
    reloaded_ = std::make_unique<Subject>(one_);
    reloaded_->schedule().load_state(own);
    from_python_ = std::make_unique<Subject>(one_);
    from_python_->schedule().load_state(python);
    const bool is_same = same_bits(reloaded_->observed(), expected_) &&
                         reloaded_->schedule().state() == own &&
                         same_bits(rates_of(from_python_->observed()), rates_of(expected_));
    from_python_->take_options(*straight_);
    return is_same;
  }

 private:
  const Case& one_;
  std::vector<double> expected_;
  std::unique_ptr<Subject> straight_;
  std::unique_ptr<Subject> reloaded_;
  std::unique_ptr<Subject> from_python_;
};

std::size_t count_words(const std::string& line) {
  std::istringstream words(line);
  return static_cast<std::size_t>(std::distance(std::istream_iterator<std::string>(words), {}));
}

/// Plays the lines of one case up to its end; false: something was different in `line`.
bool play(const Case& one, std::istream& lines, std::ostream& states, std::string& line) {
  Player player(one);
  while (std::getline(lines, line)) {
    Words words(line);
    const auto what = words.text();
    if (what == "end") return true;
    if (what == "refused") {
      EXPECT_THROW(player.begin(), c10::Error) << one.name;
      return true;
    }
    if (what == "begin") {
      player.begin();
      if (!player.are_at(words)) return false;
    } else if (what == "step") {
      player.step(words, count_words(line) > 1 + 2 * one.rates.size());
      if (!player.are_at(words)) return false;
    } else if (what == "error") {
      if (!player.refuses(words)) return false;
    } else if (!player.takes_state(words.rest_of_line(), states)) {
      return false;
    }
  }
  return false;
}

TEST(SchedulerPythonParity, SameBits) {
  std::ifstream lines(parity_file("cases"));
  std::ofstream states(parity_file("states"));
  int cases = 0;
  std::string line;
  std::getline(lines, line);
  const int expected = std::stoi(line);
  while (std::getline(lines, line)) {
    Words words(line);
    if (words.text() != "case") continue;  // of one that differed
    const std::string header = line;
    ++cases;
    const Case one(std::move(words));
    try {
      EXPECT_TRUE(play(one, lines, states, line)) << header << "\ndiffers at: " << line;
    } catch (const std::exception& error) {
      ADD_FAILURE() << header << "\nat: " << line << "\n" << error.what();
    }
  }
  EXPECT_EQ(cases, expected);
}

}  // namespace
}  // namespace lockstep::optim::lr_scheduler
