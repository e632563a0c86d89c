// SPDX-License-Identifier: BSD-3-Clause
// The snippets of the page about writing in the background. check_snippets.py compares each
// `// [name]` part with the page.
#include <gtest/gtest.h>
#include <lockstep/lockstep.h>
#include <torch/torch.h>

#include <filesystem>
#include <memory>
#include <string>

#include "support/raw_safetensors.h"

namespace {

class BackgroundWritingPage : public ::testing::Test {
 protected:
  BackgroundWritingPage() { std::filesystem::current_path(folder_.path()); }
  ~BackgroundWritingPage() override { std::filesystem::current_path("/"); }

 private:
  lockstep::training::TemporaryFolder folder_;
};

TEST_F(BackgroundWritingPage, Writes) {
  torch::Tensor mean = torch::ones({3});
  // clang-format off
  // [writer]
  auto writer = std::make_shared<lockstep::training::BackgroundWriter>();
  for (int step = 0; step < 1000; ++step) {
    const double loss = 1.0 / (step + 1);
    writer->append("metrics.jsonl",
                   "{\"step\":" + std::to_string(step) + ",\"loss\":" + std::to_string(loss) + "}");
  }
  writer->write_file("status.prom", "steps_total 1000\n");
  std::future<void> saved = writer->save_async({{"mean", mean}}, "mean.safetensors");
  mean.zero_();  // the file has the values from before
  saved.get();   // throws what went wrong
  // [writer]
  // clang-format on
  ASSERT_TRUE(writer->flush(std::chrono::minutes(1)));
  const auto tensors = lockstep::training::load_safetensors("mean.safetensors");
  EXPECT_TRUE(torch::equal(tensors.at("mean"), torch::ones({3})));
  EXPECT_EQ(lockstep::training::read_bytes("status.prom"), "steps_total 1000\n");
  EXPECT_EQ(lockstep::training::read_bytes("metrics.jsonl").find("{\"step\":0,\"loss\":1.000000}\n"),
            0U);
}

TEST_F(BackgroundWritingPage, Logs) {
  auto writer = std::make_shared<lockstep::training::BackgroundWriter>();
  ::testing::internal::CaptureStderr();  // there is no such server
  {
    // clang-format off
    // [sinks]
    namespace training = lockstep::training;
    lockstep::set_log_sink(training::all_of({
        training::file_log(writer, "run.log", training::FileLogOptions().prefix("rank 0")),
        training::syslog_log(writer, training::SyslogOptions()
                                         .transport(training::SyslogTransport::Tcp)
                                         .server("loghost:601")
                                         .application("resnet")),
        training::otlp_log(writer, training::OtlpOptions()
                                       .endpoint("http://localhost:4318")
                                       .service_name("resnet")
                                       .attributes({{"rank", "0"}})
                                       .spool(training::SpoolOptions().file("otlp.spool"))),
    }));
    lockstep::logging::warning("the learning rate is 0");
    lockstep::set_log_sink({});  // stderr again
    // [sinks]
    // clang-format on
  }
  writer.reset();
  ::testing::internal::GetCapturedStderr();
  const std::string log = lockstep::training::read_bytes("run.log");
  EXPECT_NE(log.find(" warning rank 0: the learning rate is 0\n"), std::string::npos) << log;
}

}  // namespace
