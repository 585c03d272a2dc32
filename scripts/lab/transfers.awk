# Makes tables in Markdown of the rows that scripts/lab/transfers keeps: name, task, part, setting, arm, seed, target, source+LoRA, oracle,
# transferred, seconds.

# The mean of `n` numbers of that sum and sum of squares, with Student's interval where there are two or more.
function told(n, sum, squares,    mean, reach) {
    mean = sum / n
    if (n < 2) return sprintf("%.2f", mean)
    reach = T[n - 1 < 30 ? n - 1 : 30] * sqrt((squares - n * mean * mean > 0 ? squares - n * mean * mean : 0) / (n - 1) / n)
    return sprintf("%.2f (%.2f to %.2f)", mean, mean - reach, mean + reach)
}

# t of a two-sided 95 % interval, by degrees of freedom
BEGIN {
    split("12.706 4.303 3.182 2.776 2.571 2.447 2.365 2.306 2.262 2.228 2.201 2.179 2.160 2.145 2.131 2.120 2.110 2.101 2.093 2.086 2.080 2.074 2.069 2.064 2.060 2.056 2.052 2.048 2.045 2.042", T, " ")
}

$1 == name {
    key = $3 FS $4 FS $5 FS $2
    if (!(key in n)) order[++keys] = key
    n[key]++
    target[key] += $7; source[key] += $8; oracle[key] += $9; moved[key] += $10; seconds[key] += $11
    seeds[key] = seeds[key] (seeds[key] == "" ? "" : ", ") $6
    r = $9 == $7 ? 0 : ($10 - $7) / ($9 - $7)
    sum[key] += r; squares[key] += r * r
}

END {
    parts = split("main ablation hops samples kits rank", part, " ")
    title["main"] = "Every task"; title["ablation"] = "Ablation"; title["hops"] = "Two hops: to the new base and back to the old one"
    title["samples"] = "Samples"; title["kits"] = "Seeds in a kit"; title["rank"] = "Rank"
    counted["main"] = counted["samples"] = "samples"; counted["kits"] = "seeds of the kit"; counted["rank"] = "rank"
    for (p = 1; p <= parts; p++) {
        shown = 0
        for (k = 1; k <= keys; k++) {
            split(order[k], at, FS)
            if (at[1] != part[p]) continue
            if (!shown++) {
                print "\n### " title[part[p]] "\n"
                print "| setting | " (part[p] in counted ? counted[part[p]] : "arm") " | task | target | source+LoRA | oracle | transferred | R | seeds | seconds |"
                print "|---|---|---|---|---|---|---|---|---|---|"
            }
            key = order[k]; c = n[key]
            printf "| %s | %s | %s | %.1f %% | %.1f %% | %.1f %% | %.1f %% | %s | %s | %.0f |\n", at[2], at[3], at[4], \
                100 * target[key] / c, 100 * source[key] / c, 100 * oracle[key] / c, 100 * moved[key] / c, told(c, sum[key], squares[key]), seeds[key], seconds[key] / c
            group = at[1] FS at[2] FS at[3]
            mean = sum[key] / c
            if (!(group in tasks)) groups[++count] = group
            tasks[group]++; all[group] += mean; allsquares[group] += mean * mean; runs[group] += c
            capped[group] += mean < 1 ? mean : 1
        }
        if (shown) {
            print ""
            for (g = 1; g <= count; g++) {
                split(groups[g], at, FS)
                if (at[1] != part[p]) continue
                printf "- %s, %s: mean R %s over %d tasks, %d runs", at[2], at[3], told(tasks[groups[g]], all[groups[g]], allsquares[groups[g]]), tasks[groups[g]], runs[groups[g]]
                # A mean must not owe its height to one task that was moved better than retrained.
                if (all[groups[g]] - capped[groups[g]] > 0.005 * tasks[groups[g]]) printf "; %.2f where what is better than the oracle counts as 1", capped[groups[g]] / tasks[groups[g]]
                print ""
            }
        }
    }
}
