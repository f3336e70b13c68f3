// What this machine can do: streaming read bandwidth and f32 FMA peak, on THREADS threads at once. Prints JSON.
//   g++ -O3 -march=native -pthread machine.cpp -o machine && ./machine THREADS
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <thread>
#include <vector>

#ifdef __AVX512F__
constexpr int WIDTH = 16;
#else
constexpr int WIDTH = 8;
#endif
typedef float Lanes __attribute__((vector_size(WIDTH * sizeof(float))));
// Enough chains to hide a latency of 4 cycles on two units, few enough for 16 registers.
constexpr int CHAINS = 10;
constexpr long FMA_STEPS = 20'000'000;
// Far over any cache.
constexpr size_t READ_BYTES = size_t(512) << 20;
constexpr int ROUNDS = 5;

static double seconds(const std::function<void()> &work) {
    auto start = std::chrono::steady_clock::now();
    work();
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

static double seconds_on(int threads, const std::function<void(int)> &work) {
    return seconds([&] {
        std::vector<std::thread> running;
        for (int i = 0; i < threads; i++) running.emplace_back(work, i);
        for (auto &thread : running) thread.join();
    });
}

static uint64_t sum(const uint64_t *words, size_t count) {
    uint64_t total[4] = {};
    for (size_t i = 0; i < count; i += 4)
        for (int j = 0; j < 4; j++) total[j] += words[i + j];
    return total[0] + total[1] + total[2] + total[3];
}

static float multiply_add(float start) {
    Lanes chain[CHAINS], factor = Lanes{} + 0.999f, term = Lanes{} + 1e-3f;
    for (int j = 0; j < CHAINS; j++) chain[j] = Lanes{} + start + float(j);
    for (long i = 0; i < FMA_STEPS; i++) {
#pragma GCC unroll 10
        for (int j = 0; j < CHAINS; j++) chain[j] = chain[j] * factor + term;
    }
    float total = 0;
    for (int j = 0; j < CHAINS; j++)
        for (int lane = 0; lane < WIDTH; lane++) total += chain[j][lane];
    return total;
}

int main(int argc, char **argv) {
    int threads = argc > 1 ? std::atoi(argv[1]) : 1;
    size_t words = READ_BYTES / sizeof(uint64_t), share = words / threads / 4 * 4;
    std::vector<uint64_t> memory(words, 1);
    // Kept, so that no loop is optimised away.
    std::vector<double> results(threads);
    double read_s = 1e9, fma_s = 1e9;
    for (int round = 0; round < ROUNDS; round++) {
        double read = seconds_on(threads, [&](int i) { results[i] += sum(memory.data() + i * share, share); });
        double fma = seconds_on(threads, [&](int i) { results[i] += multiply_add(float(i)); });
        read_s = read < read_s ? read : read_s;
        fma_s = fma < fma_s ? fma : fma_s;
    }
    double kept = 0;
    for (double result : results) kept += result;
    std::printf("{\"threads\": %d, \"read_gb_per_s\": %.2f, \"fma_gflop_per_s\": %.1f, \"kept\": %g}\n", threads,
                double(share) * threads * sizeof(uint64_t) / read_s / 1e9,
                2.0 * WIDTH * CHAINS * double(FMA_STEPS) * threads / fma_s / 1e9, kept);
}
